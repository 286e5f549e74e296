"""Endpoints of the content repository."""
