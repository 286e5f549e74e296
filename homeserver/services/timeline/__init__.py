"""Events of rooms: sending, reading, and visibility."""
