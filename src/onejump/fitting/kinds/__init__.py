"""One module for each method that is fitted: which kind of shortcut the fit gives, and how it is made."""
