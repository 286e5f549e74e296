"""Keys, and messages to devices."""
