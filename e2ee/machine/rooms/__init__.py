"""Keys of rooms: made, shared, kept, and what a room's settings demand."""
