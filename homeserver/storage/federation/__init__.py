"""Other servers: what they are owed, what they sent, their keys, as rows."""
