"""Filters and tokens of clients, and the part of a room's state that a sync sends."""
