"""Requests to application services."""
