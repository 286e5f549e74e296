"""Creation, merging, upgrading and listing of rooms, and restricted joins."""
