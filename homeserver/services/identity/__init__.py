"""Third-party identifiers: proofs of ownership, accounts that have them, identity servers."""
