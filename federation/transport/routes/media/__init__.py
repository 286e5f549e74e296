"""Media of this server for other servers."""
