"""Decisions of the homeserver, pure: no async, no clock, no randomness, no I/O."""
