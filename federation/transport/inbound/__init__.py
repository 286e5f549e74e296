"""Data from other servers: transactions, their PDUs and EDUs, and missing events."""
