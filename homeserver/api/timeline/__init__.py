"""Sending events, and reading what was sent."""
