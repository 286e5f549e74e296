"""Other servers: their cursors, received events, EDUs and keys, as rows."""
