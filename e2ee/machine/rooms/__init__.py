"""Keys of rooms: made, shared and kept as the room's settings demand."""
