"""Rooms that this server isn't in, but in which a user of ours is invited, or knocks."""
