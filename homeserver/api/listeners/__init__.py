"""What connects to the listening sockets."""
