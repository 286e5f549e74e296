"""Requests to other servers: where they are, who we are, their keys, their answers."""
