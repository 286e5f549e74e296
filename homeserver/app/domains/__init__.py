"""One maker of services, and of endpoints, for each domain."""
