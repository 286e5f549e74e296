"""Syncs: the loop that answers them (`loop`), what is new (`news`), what is sent of each room
(`rooms`, `departures`, `invites`, out of `timelines` and `state`), what stands beside rooms, and
the answer's bytes (`answers`)."""
