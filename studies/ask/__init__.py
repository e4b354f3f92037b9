"""From flags, files and ranges to scenarios, and from scenarios to answers."""
