"""Push: rules, unread notifications, pushers."""
