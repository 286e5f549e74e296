"""Syncs: the loop that answers them (`loop`), the changes in the log (`log_delta`), the rooms
(`rooms`), the data beside events (`extras`, `ephemeral`), and the answer's bytes (`answers`)."""
