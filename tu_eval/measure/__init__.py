"""A model measured on a suite; what only the model can tell is kept by content."""
