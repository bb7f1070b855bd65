"""One module for each kind of shortcut: its map, named `KIND`. The kind in a file names the module."""
