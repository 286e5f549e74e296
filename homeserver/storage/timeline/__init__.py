"""Events as rows, and records of missing ones."""
