"""Joins, knocks, leaves and invites that need another server, and the stored intents of them."""
