"""Our own engine is predicted from a profile, run, and compared."""
