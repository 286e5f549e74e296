"""Events of our own users: checked, built, staged and committed under their room's lock."""
