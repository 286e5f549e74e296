"""Ends of invites and knocks of other servers' users: their servers must get these events, even if
they were never in the room. Reads `state_changes` and `events`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from homeserver.storage.database import Connection

_SERVER = "substr(c.state_key, strpos(c.state_key, ':') + 1)"
_ENDS = (
    " FROM state_changes c JOIN events e ON e.event_id = c.event_id"
    " WHERE c.type = 'm.room.member' AND c.former IN ('invite', 'knock')"
    " AND c.membership IN ('leave', 'ban') AND e.to_federate"
    " AND e.live_index IS NOT NULL AND e.gap_index = 0"
    " AND e.position = c.position"
    f" AND right(e.sender, length({_SERVER}) + 1) <> ':' || {_SERVER}"
)


class OwedEventRow(msgspec.Struct, frozen=True, gc=False):
    """An event for another server, and the position at which it is owed."""

    position: int
    json: bytes


async def owed(
    connection: Connection, server: str, *, after: int, limit: int
) -> list[OwedEventRow]:
    """Returns those after a position, oldest first, at most `limit`."""
    rows = await connection.fetch(
        f"SELECT e.position, e.json{_ENDS} AND {_SERVER} = $1 AND c.position > $2"
        " ORDER BY c.position LIMIT $3",
        server,
        after,
        limit,
    )
    return [OwedEventRow(*row) for row in rows]


async def servers(connection: Connection, own: str) -> dict[str, int]:
    """Returns the newest position that concerns each server."""
    rows = await connection.fetch(
        f"SELECT {_SERVER} AS server, max(c.position) AS position{_ENDS}"
        f" AND {_SERVER} <> $1 GROUP BY 1",
        own,
    )
    return {row["server"]: row["position"] for row in rows}


def merged(
    rows: Sequence[OwedEventRow], more: Sequence[OwedEventRow], limit: int
) -> list[OwedEventRow]:
    """Merges two lists by position, each event once. Events at one position may exceed `limit`."""
    events = {(row.position, row.json): row for row in (*rows, *more)}
    found = sorted(events.values(), key=lambda row: row.position)
    if len(found) <= limit:
        return found
    return [row for row in found if row.position <= found[limit - 1].position]
