"""Verdicts made again, once the state that they rest on is known better."""
