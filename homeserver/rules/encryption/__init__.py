"""Keys of devices, changes of device lists, and messages between devices."""
