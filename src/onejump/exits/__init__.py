"""When to exit: how confident a shortcut is, which threshold it has to reach, and what exiting saves."""
