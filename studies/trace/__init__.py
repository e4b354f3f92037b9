"""A timeline of simulated steps for Perfetto."""
