"""Endpoints for application services, and of what they provide."""
