"""Tables about rooms that this server isn't in."""
