"""Styles of words that stand out on a terminal."""

LABEL, STRONG = "cyan", "bold"
