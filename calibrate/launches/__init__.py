"""THE TEXT AROUND A LAUNCH of a server: shell, manifests, flags, environment."""
