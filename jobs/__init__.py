"""WORK ON SEVERAL CORES: spawned processes, what they say, and a pool that maps tasks over them."""
