"""The log: staged units become one transaction after another, in one order."""
