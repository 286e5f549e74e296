"""Rules on events in relation to each other: auth, state resolution, building, admission. Pure."""
