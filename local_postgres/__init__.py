"""An embedded PostgreSQL for operators without one: no installation, our own supervisor.

`cluster` is the supervisor; `accounts` and `layout` say who runs it and where; `binaries` finds the
programs; `process` keeps the postmaster bound to us; `roles` makes a role and a database for a
server.
"""

from local_postgres.cluster import EmbeddedCluster
from local_postgres.layout import EmbeddedError

__all__ = ["EmbeddedCluster", "EmbeddedError"]
