"""Accounts: log-ins, tokens, devices, profiles."""
