"""What was said in rooms: sent, read, and who may see it."""
