"""The operations of the server for its users: services await storage, engine and outbound, and call
rules.

They contain no SQL and no HTTP, take their dependencies as constructor arguments, and refuse with
`federation.errors.MatrixError`.
"""
