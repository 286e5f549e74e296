"""Sending and reading events."""
