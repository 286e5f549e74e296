"""What the server does for its users: services await storage, engine and outbound, and call rules.

They know no SQL and no HTTP, take what they need as constructor arguments, and refuse with
`homeserver.errors.MatrixError`.
"""
