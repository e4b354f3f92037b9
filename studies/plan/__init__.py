"""The fewest GPUs and the cheapest fleet that meet objectives."""
