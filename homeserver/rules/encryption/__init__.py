"""Keys of devices, whose device lists changed, and messages between devices."""
