"""Ends of invites and knocks of other servers' users: their servers are owed them, though these may
never have been in the room. Reads `state_changes` and `events`.
"""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.storage.database import Connection, Row

_SERVER = "substr(c.state_key, strpos(c.state_key, ':') + 1)"
_ENDS = (
    " FROM state_changes c JOIN events e ON e.event_id = c.event_id"
    " WHERE c.type = 'm.room.member' AND c.former IN ('invite', 'knock')"
    " AND c.membership IN ('leave', 'ban') AND e.to_federate AND e.n IS NOT NULL AND e.fill = 0"
    " AND e.position = c.position"
    f" AND right(e.sender, length({_SERVER}) + 1) <> ':' || {_SERVER}"
)


async def owed(connection: Connection, server: str, *, after: int, limit: int) -> list[Row]:
    """(position, json) of those after a position, oldest first, at most `limit`."""
    rows: list[Row] = await connection.fetch(
        f"SELECT e.position, e.json{_ENDS} AND {_SERVER} = $1 AND c.position > $2"
        " ORDER BY c.position LIMIT $3",
        server,
        after,
        limit,
    )
    return rows


async def servers(connection: Connection, own: str) -> list[Row]:
    """(server, position): whom the newest one concerns."""
    rows: list[Row] = await connection.fetch(
        f"SELECT {_SERVER} AS server, max(c.position) AS position{_ENDS} AND {_SERVER} <> $1"
        " GROUP BY 1",
        own,
    )
    return rows


def merged(rows: Sequence[Row], more: Sequence[Row], limit: int) -> list[Row]:
    """Two lists of (position, json) as one by position, each event once. `limit` is passed by what
    is at one position."""
    events = {(row["position"], row["json"]): row for row in (*rows, *more)}
    found = sorted(events.values(), key=_position)
    if len(found) <= limit:
        return found
    return [row for row in found if _position(row) <= _position(found[limit - 1])]


def _position(row: Row) -> int:
    position: int = row["position"]
    return position


def newest(rows: Sequence[Row], more: Sequence[Row]) -> list[Row]:
    """Two lists of (server, position) as one, each server once with its newest position."""
    found: dict[str, int] = {}
    for row in (*rows, *more):
        found[row["server"]] = max(row["position"], found.get(row["server"], row["position"]))
    return [{"server": server, "position": position} for server, position in found.items()]
