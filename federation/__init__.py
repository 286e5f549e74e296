"""Rooms that several servers share: one event, events together, and the transport between servers.

Nothing here imports the homeserver; what is needed of it is stated in `ports`.
"""
