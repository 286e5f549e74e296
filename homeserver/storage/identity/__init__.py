"""The tables of third-party identifiers and of the proofs that somebody owns one."""
