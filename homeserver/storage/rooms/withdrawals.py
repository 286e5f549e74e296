"""Ends of invites and knocks of other servers' users: their servers must get these events, even if
they were never in the room. Reads `state_changes` and `events`.
"""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.storage.database import Connection, Row

_SERVER = "substr(c.state_key, strpos(c.state_key, ':') + 1)"
_ENDS = (
    " FROM state_changes c JOIN events e ON e.event_id = c.event_id"
    " WHERE c.type = 'm.room.member' AND c.former IN ('invite', 'knock')"
    " AND c.membership IN ('leave', 'ban') AND e.to_federate"
    " AND e.live_index IS NOT NULL AND e.gap_index = 0"
    " AND e.position = c.position"
    f" AND right(e.sender, length({_SERVER}) + 1) <> ':' || {_SERVER}"
)


async def owed(connection: Connection, server: str, *, after: int, limit: int) -> list[Row]:
    """Returns (position, json) of those after a position, oldest first, at most `limit`."""
    rows: list[Row] = await connection.fetch(
        f"SELECT e.position, e.json{_ENDS} AND {_SERVER} = $1 AND c.position > $2"
        " ORDER BY c.position LIMIT $3",
        server,
        after,
        limit,
    )
    return rows


async def servers(connection: Connection, own: str) -> list[Row]:
    """Returns (server, position): the newest one that concerns each server."""
    rows: list[Row] = await connection.fetch(
        f"SELECT {_SERVER} AS server, max(c.position) AS position{_ENDS}"
        f" AND {_SERVER} <> $1 GROUP BY 1",
        own,
    )
    return rows


def merged(rows: Sequence[Row], more: Sequence[Row], limit: int) -> list[Row]:
    """Merges two lists of (position, json) by position, each event once. Events at one position may
    exceed `limit`."""
    events = {(row["position"], row["json"]): row for row in (*rows, *more)}
    found = sorted(events.values(), key=_position)
    if len(found) <= limit:
        return found
    return [row for row in found if _position(row) <= _position(found[limit - 1])]


def _position(row: Row) -> int:
    position: int = row["position"]
    return position


def newest(rows: Sequence[Row], more: Sequence[Row]) -> list[Row]:
    """Merges two lists of (server, position), each server once with its newest position."""
    found: dict[str, int] = {}
    for row in (*rows, *more):
        found[row["server"]] = max(row["position"], found.get(row["server"], row["position"]))
    return [{"server": server, "position": position} for server, position in found.items()]
