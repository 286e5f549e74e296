"""Scheduling of requests to other servers: the causes, the number at once, and the rates."""
