"""Limits of push rules: the work that one event costs."""

PUSH_MATCH_STEPS = 8_000_000
"""Comparisons of characters that the patterns of one user's rules may cost with one event, some 10
ms in the worst case. Further patterns don't match. 25 keywords of 10 characters reach it in a text
of 32,000 characters that contains all of them nearly everywhere."""
