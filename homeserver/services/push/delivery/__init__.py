"""Notifications on their way to push gateways."""
