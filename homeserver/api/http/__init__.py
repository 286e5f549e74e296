"""The HTTP layer: connections, requests, routes, bodies, responses."""
