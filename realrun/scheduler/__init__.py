"""The scheduler's process: batches, pools, and its end of the workers."""
