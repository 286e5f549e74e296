"""Authorisation rules of all room versions, and the room state that they read."""
