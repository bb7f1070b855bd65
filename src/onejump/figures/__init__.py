"""The figures: their style, what they are made of, and each one's drawing."""
