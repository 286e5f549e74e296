"""Decisions about application services: what their registrations say, and what concerns them."""
