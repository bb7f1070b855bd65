"""See what a model would have said at every level: the trajectory of a prompt, as a table and as figures."""
