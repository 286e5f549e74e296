"""Filters of syncs as rows."""
