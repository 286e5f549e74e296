"""Account data of users as rows."""
