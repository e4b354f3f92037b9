"""What somebody measured, in our words: names, conditions, units, checks."""
