"""Rooms that use a policy server, as the engine sees them."""
