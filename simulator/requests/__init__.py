"""What a run is drawn from: workload, acceptance laws, survival, expected moments."""
