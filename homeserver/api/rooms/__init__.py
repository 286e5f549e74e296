"""Rooms, who is in them, their state and their names."""
