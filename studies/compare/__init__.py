"""Pages of `compare`, `validate` and `calibrate`."""
