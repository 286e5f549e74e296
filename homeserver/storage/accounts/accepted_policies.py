"""The table `accepted_policies`: which versions of policies users accepted."""

from __future__ import annotations

from collections.abc import Sequence

from federation.events.ids import UserId
from homeserver.storage.database import Connection, Database


async def add(
    connection: Connection, user_id: UserId, policies: Sequence[tuple[str, str]], now_ms: int
) -> None:
    """Notes that a user accepted policies, each by ID and version."""
    await connection.executemany(
        "INSERT INTO accepted_policies (user_id, policy, version, accepted_ms)"
        " VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        [(user_id, policy, version, now_ms) for policy, version in policies],
    )


async def delete_all(connection: Connection, user_id: UserId) -> None:
    """Forgets what a user accepted."""
    await connection.execute("DELETE FROM accepted_policies WHERE user_id = $1", user_id)


class AcceptedPolicyTable:
    """The accepted policies."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, user_id: UserId) -> list[tuple[str, str, int]]:
        """Returns what a user accepted: ID, version and time in milliseconds."""
        rows = await self._database.fetch(
            "SELECT policy, version, accepted_ms FROM accepted_policies WHERE user_id = $1"
            " ORDER BY policy, accepted_ms",
            user_id,
        )
        return [(row[0], row[1], row[2]) for row in rows]
