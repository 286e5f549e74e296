"""What other servers send and ask beside events."""
