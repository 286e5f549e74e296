"""Accounts, their tokens, devices and profiles as rows."""
