"""Accounts, log-ins, devices and profiles."""
