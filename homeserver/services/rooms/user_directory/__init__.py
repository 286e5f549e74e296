"""The user directory: who can be found, and how it is kept up to date."""
