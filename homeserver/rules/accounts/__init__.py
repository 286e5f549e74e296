"""Log-in flows, rate limits, and what a server may be called."""
