"""Channels between two devices, and what arrives in them."""
