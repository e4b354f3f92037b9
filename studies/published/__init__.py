"""The accuracy page, and what the gallery draws from published rows."""
