"""EVERY NUMBER, with unit and source. Loaders only, no physics."""
