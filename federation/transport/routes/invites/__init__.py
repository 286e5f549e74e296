"""Endpoints of invites by address."""
