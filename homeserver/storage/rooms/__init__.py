"""Rooms, their members, state and names as rows."""
