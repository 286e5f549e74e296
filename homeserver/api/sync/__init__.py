"""Syncs and their filters."""
