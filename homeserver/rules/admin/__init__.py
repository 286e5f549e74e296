"""Server administration: what this server says of itself."""
