"""One module a figure, found by the figure's name: `draw` makes it, `table`, where there is one, its csv."""
