"""What may be asked: the sections of a study file, and how one is read and checked."""
