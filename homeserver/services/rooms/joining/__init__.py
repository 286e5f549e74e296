"""Joins, knocks, leaves and invites that take another server, and what was begun of them."""
