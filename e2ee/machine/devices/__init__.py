"""Devices and users: their lists and keys, whom to trust, and our own."""
