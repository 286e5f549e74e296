"""Keys of devices and users, device lists, and messages to devices as rows."""
