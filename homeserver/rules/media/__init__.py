"""What media are and how they may be served."""
