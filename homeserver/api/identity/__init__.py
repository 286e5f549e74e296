"""Endpoints of third-party identifiers."""
