"""Log-in flows, rate limits, and server names."""
