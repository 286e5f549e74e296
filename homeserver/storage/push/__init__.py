"""Push: pushers."""
