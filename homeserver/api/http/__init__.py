"""The HTTP edge: connections, requests, routes, bodies, responses."""
