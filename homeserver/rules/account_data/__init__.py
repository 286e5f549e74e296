"""Account data that the server itself reads."""
