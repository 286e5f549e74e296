"""Rooms in memory: loaded, resolved, read; what their events and states are."""
