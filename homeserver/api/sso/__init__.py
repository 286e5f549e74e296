"""Endpoints of single sign-on, for browsers."""
