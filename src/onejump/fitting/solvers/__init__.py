"""One module for each solver, which fits shortcuts of all levels to the training samples: exact, gradient."""
