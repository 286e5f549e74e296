"""Rooms, their members, state and names."""
