"""Requests to other servers: addresses, authentication, keys and answers."""
