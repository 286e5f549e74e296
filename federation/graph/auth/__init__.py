"""Authorisation rules of all room versions, and what they read of a room's state."""
