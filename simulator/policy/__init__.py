"""POLICIES: each chooses how many drafts are verified."""
