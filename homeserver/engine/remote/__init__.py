"""Events of other servers: single ones, whole states that a join brings, and history."""
