"""The shortcuts themselves, as torch modules and as files, and the exit head."""
