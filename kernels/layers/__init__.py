"""Layers of one rank, and where their shapes and weights come from."""
