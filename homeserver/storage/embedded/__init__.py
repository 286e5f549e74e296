"""A PostgreSQL of our own, for who brings none: zero installation, our own supervisor.

`cluster` is the supervisor; `accounts` and `layout` say who runs it and where; `binaries` finds the
programs; `process` keeps the postmaster bound to us; `roles` makes a role and a database for a
server.
"""

from homeserver.storage.embedded.cluster import EmbeddedCluster
from homeserver.storage.embedded.layout import EmbeddedError

__all__ = ["EmbeddedCluster", "EmbeddedError"]
