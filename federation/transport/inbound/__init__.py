"""What comes from other servers: transactions, their PDUs and EDUs, and what these lack."""
