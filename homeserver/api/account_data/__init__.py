"""Account data."""
