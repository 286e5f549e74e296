"""The search for messages: how the index is kept, and how its finds are answered."""
