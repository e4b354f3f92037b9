"""The same ops in Triton, their launch configurations, and a compiler check without a GPU."""
