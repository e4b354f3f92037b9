"""THE MODEL. Pure: no files, torch, pandas, plots or printing."""
