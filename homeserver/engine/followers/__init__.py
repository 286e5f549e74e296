"""Followers of the log: cursors over what is committed, fed from memory near its end, at least
once."""
