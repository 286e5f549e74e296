"""Endpoints that list rooms for servers that aren't in them."""
