"""JSON of any size and depth: its nesting, its pieces, and deeply nested values."""
