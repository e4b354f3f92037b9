"""Grids of scenarios over processes, shards or a cluster, resumed after a kill."""
