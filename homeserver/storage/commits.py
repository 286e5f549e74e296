"""A group commit of messages as one statement: one round trip, one transaction.

It touches `logs`, `events`, `room_heads` and `client_transactions`, through the column lists of
their owning modules.
"""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.storage.database import Connection
from homeserver.storage.logs import LOG
from homeserver.storage.timeline import events as event_rows

EMPTY_COLUMNS = frozenset({"state_key", "membership", "reason", "rule", "replaces", "redacted_by"})
"""Columns that a message which was just accepted doesn't have: each one would cost a parameter and
an array of nulls."""

_RELATION = ("relates_to", "rel_type", "edited_ms")
_RELATED = [one for one in event_rows.COLUMNS if one[0] not in EMPTY_COLUMNS]
_UNRELATED = [one for one in _RELATED if one[0] not in _RELATION]
"""Columns of a message: only few batches have a relation among their messages."""


def _statement(columns: Sequence[tuple[str, str]]) -> str:
    names = ", ".join(name for name, _ in columns)
    events = ", ".join(f"${i + 5}::{kind}[]" for i, (_, kind) in enumerate(columns))
    following = 5 + len(columns)
    heads = ", ".join(
        f"${following + i}::{name}[]"
        for i, name in enumerate(("bigint", "text", "bigint", "bigint"))
    )
    sent = ", ".join(
        f"${following + 4 + i}::{name}[]"
        for i, name in enumerate(("text", "text", "bytea", "text", "bigint"))
    )
    return f"""
WITH moved AS (
    UPDATE logs SET position = $4 WHERE log = $1 AND epoch = $2 AND position = $3 RETURNING log
), e AS (
    INSERT INTO events ({names})
    SELECT u.* FROM moved, unnest({events}) AS u
), h AS (
    UPDATE room_heads SET heads = u.heads::bigint[], live_index = u.live_index, position =
    u.position FROM moved, unnest({heads}) AS u (room_row_id, heads, live_index, position)
    WHERE room_heads.room_row_id = u.room_row_id
), t AS (
    INSERT INTO client_transactions (user_id, device_id, key, event_id, position)
    SELECT u.* FROM moved, unnest({sent}) AS u
)
SELECT count(*) FROM moved
"""


_NAMES = ([name for name, _ in _UNRELATED], [name for name, _ in _RELATED])
_MESSAGES = (_statement(_UNRELATED), _statement(_RELATED))


async def messages(
    connection: Connection,
    moved: tuple[int, int, int],
    rows: Sequence[event_rows.EventRow],
    heads: Sequence[tuple[int, str, int, int]],
    sent: Sequence[tuple[str, str, bytes, str, int]],
) -> bool:
    """Commits events that don't change state. `moved` is (epoch, old position, new position);
    `heads` rows are (room_row_id, heads as an array's text, live_index, position). Returns False if
    the log isn't ours any more."""
    related = any(row.relates_to is not None for row in rows)
    count = await connection.fetchval(
        _MESSAGES[related],
        LOG,
        *moved,
        *event_rows.columns(rows, _NAMES[related]),
        *([row[i] for row in heads] for i in range(4)),
        *([row[i] for row in sent] for i in range(5)),
    )
    return bool(count == 1)
