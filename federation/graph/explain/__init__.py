"""Replays decisions step by step, with the rule that decided, as values, text and JSON."""
