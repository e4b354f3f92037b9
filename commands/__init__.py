"""The commands: each parses, asks one question of the packages, and prints."""
