"""Calibration of a running server, from the question to the page."""
