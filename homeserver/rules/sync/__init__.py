"""Filters and tokens of clients, and what of a room's state a sync sends."""
