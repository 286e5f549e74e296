"""Joins that a user of ours has to vouch for."""
