"""Summaries of rooms, and the hierarchies of spaces."""
