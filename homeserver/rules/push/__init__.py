"""The default push rules of a user."""
