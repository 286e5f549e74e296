"""Keys of devices, and who is told of them."""
