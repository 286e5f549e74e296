"""Push rules: the default ones, changes of them, and their evaluation."""
