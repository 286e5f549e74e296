"""Joins, knocks, leaves and invites that take two servers."""
