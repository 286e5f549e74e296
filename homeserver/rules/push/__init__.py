"""The push rules that a user begins with."""
