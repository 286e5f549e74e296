"""Events of other servers: single ones, the whole state of a join, and history."""
