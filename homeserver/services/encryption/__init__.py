"""Keys of devices, and the users that are told of them."""
