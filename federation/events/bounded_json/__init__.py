"""JSON of any size and depth: its nesting, its pieces, and what is nested deeply."""
