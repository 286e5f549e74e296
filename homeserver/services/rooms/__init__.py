"""Rooms: made, named, joined, left, upgraded, and their state."""
