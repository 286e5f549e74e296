"""Third-party identifiers: which are valid, and which are the same."""
