"""Examples in NumPy arrays: sources, named data sets and the batch pipeline (grain)."""
