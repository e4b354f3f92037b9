"""The answer of `predict`, as a page and as a table."""
