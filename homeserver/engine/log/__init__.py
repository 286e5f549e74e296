"""The log: what is staged becomes one transaction after another, in one order."""
