"""Tables of application services, and their registration files."""
