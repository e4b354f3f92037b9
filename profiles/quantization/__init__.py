"""What the files of a checkpoint state about its quantisation, and the names of modules."""
