"""Who may come and go: users who vouch for joins, and what requests ask of the room in its turn."""
