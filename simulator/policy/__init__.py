"""Who chooses how many drafts are verified."""
