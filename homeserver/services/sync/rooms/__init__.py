"""Rooms in a sync: joined, left, invited and knocked ones, their timelines and states."""
