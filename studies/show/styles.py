"""How words stand out on a terminal."""

LABEL, STRONG = "cyan", "bold"
