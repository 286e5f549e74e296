"""The client-server API over HTTP.

`routes` is one table; `dispatch` finds a route in it; `server` runs it; handlers work with
`request` and `response`. Handlers are thin: they read a request's parts, call one service and build
the response. Nothing here contains SQL or decides on permissions.
"""
