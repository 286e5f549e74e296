"""Who may make this server ask other servers, how much at once, and how often."""
