"""Rooms in memory: loading, state resolution, reading, and the forms of events and states."""
