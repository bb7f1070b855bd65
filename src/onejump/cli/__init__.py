"""The command `onejump`."""
