"""State resolution of all room versions, and the auth chains that it needs."""
