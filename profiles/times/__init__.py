"""Measured operator times: files, tables, interpolation, profiles of one machine."""
