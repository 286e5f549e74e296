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

_COLUMNS = [one for one in event_rows.COLUMNS if one[0] not in EMPTY_COLUMNS]
_NAMES = [name for name, _ in _COLUMNS]
_EVENTS = ", ".join(f"${i + 5}::{kind}[]" for i, (_, kind) in enumerate(_COLUMNS))
_NEXT = 5 + len(_COLUMNS)
_HEADS = ", ".join(
    f"${_NEXT + i}::{name}[]" for i, name in enumerate(("bigint", "text", "bigint", "bigint"))
)
_SENT = ", ".join(
    f"${_NEXT + 4 + i}::{name}[]"
    for i, name in enumerate(("text", "text", "bytea", "text", "bigint"))
)
_MESSAGES = f"""
WITH moved AS (
    UPDATE logs SET position = $4 WHERE log = $1 AND epoch = $2 AND position = $3 RETURNING log
), e AS (
    INSERT INTO events ({", ".join(_NAMES)})
    SELECT u.* FROM moved, unnest({_EVENTS}) AS u
), h AS (
    UPDATE room_heads SET heads = u.heads::bigint[], live_index = u.live_index, position =
    u.position FROM moved, unnest({_HEADS}) AS u (room_row_id, heads, live_index, position)
    WHERE room_heads.room_row_id = u.room_row_id
), t AS (
    INSERT INTO client_transactions (user_id, device_id, key, event_id, position)
    SELECT u.* FROM moved, unnest({_SENT}) AS u
)
SELECT count(*) FROM moved
"""


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
    count = await connection.fetchval(
        _MESSAGES,
        LOG,
        *moved,
        *event_rows.columns(rows, _NAMES),
        *([row[i] for row in heads] for i in range(4)),
        *([row[i] for row in sent] for i in range(5)),
    )
    return bool(count == 1)
