"""Caption sets for B2C; the file name is the set name."""
