"""THE SAME CYCLE, FOR REAL: scheduler, workers, pools; needs no simpy and no pydantic."""
