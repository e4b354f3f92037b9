"""A rank's process: networks over pools, on a CPU or a GPU."""
