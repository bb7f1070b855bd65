"""Use a jump: load it, generate text that exits early, and measure what that saves."""
