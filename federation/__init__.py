"""Rooms that several servers share: one event, events together, and the transport between servers.

Nothing here imports the homeserver; `ports` declares what federation needs of it.
"""
