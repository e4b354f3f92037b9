"""A running server: what it is, how fast it is, and which few measurements tell most of it."""
