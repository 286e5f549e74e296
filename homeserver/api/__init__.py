"""The client-server API over HTTP.

In `http`, `routes` is the table of routes, `router` finds a route in it, `app` processes a request,
and `server` listens; handlers work with `request` and `response`. Handlers are thin: they read a
request's parts, call one service and build the response. Nothing here contains SQL or decides on
permissions.
"""
