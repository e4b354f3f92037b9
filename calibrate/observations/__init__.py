"""MEASUREMENTS OF OTHERS, in our words: names, conditions, units, checks."""
