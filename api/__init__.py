"""The Python API: what the commands answer, as objects and data frames."""
