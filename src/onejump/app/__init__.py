"""A local web page: the lens, generation with exits, and the figures and tables of a study."""
