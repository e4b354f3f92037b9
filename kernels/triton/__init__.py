"""OPS IN TRITON, their launch configurations, and a compiler check without a GPU."""
