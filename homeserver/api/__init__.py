"""The client-server edge: HTTP in, services called, HTTP out.

`routes` is one table; `dispatch` finds a route in it; `server` runs it; `request` and `answer` are
what a handler sees. Handlers are thin: they read a request's parts, call one service and shape the
answer. Nothing here knows SQL or decides rights.
"""
