"""Account data of users."""
