"""Rechecks: verdicts are decided again once the state that they depend on is verified."""
