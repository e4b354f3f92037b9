"""THE DRAWS OF A RUN: workload, acceptance laws, survival, expected moments."""
