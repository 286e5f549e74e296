"""What became of the contents of stored events.

1. A content that doesn't match its hash is stored redacted; so is what a redaction redacted.
2. A redaction that counts was applied: by the target's own server it always counts.
3. What one client sent under one transaction ID is one event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from hashlib import sha256

import canonicaljson
import orjson
from unpaddedbase64 import encode_base64

from federation.events.event import Event
from federation.events.ids import EventId, server_of
from tests.simulation.disks import RoomDisks, Stored
from tests.simulation.server import SimulatedServer

Found = Callable[[str], None]

_KEPT = {
    "m.room.member": {"membership", "join_authorised_via_users_server", "third_party_invite"},
    "m.room.create": None,
    "m.room.join_rules": {"join_rule", "allow"},
    "m.room.power_levels": {
        *("ban", "events", "events_default", "invite", "kick", "redact"),
        *("state_default", "users", "users_default"),
    },
    "m.room.history_visibility": {"history_visibility"},
    "m.room.redaction": {"redacts"},
    "m.room.aliases": {"aliases"},
}
"""What redaction may leave in a content, in some version (room versions, "Redactions"); None: all
of it."""


def check_contents(server: SimulatedServer, disks: RoomDisks, found: Found) -> None:
    """Checks all contents of a room on one server's disk."""
    stored = disks.of[server.name]
    for one in stored.values():
        if not is_whole(one.event) and not _is_redacted(one.event):
            found(f"{server.name} has {one.event.event_id} with a content that nobody signed")
        if one.row["redacted_by"] is not None:
            _check_redactor(server, one, stored, found)
    _check_applied(server, stored, found)
    sent = Counter(
        (one.event.sender, one.row["transaction_of"])
        for one in stored.values()
        if one.row["transaction_of"] is not None
    )
    for (sender, transaction), times in sent.items():
        if times > 1:
            found(f"{server.name}: {sender} sent {transaction!r} once, it is there {times} times")


def is_whole(event: Event) -> bool:
    """Does the content hash match? Worked out by another package than the code under test."""
    pdu = orjson.loads(event.raw)
    given = pdu.pop("hashes")["sha256"]
    pdu.pop("signatures")
    pdu.pop("unsigned", None)
    made = encode_base64(sha256(canonicaljson.encode_canonical_json(pdu)).digest())
    return bool(made == given)


def _is_redacted(event: Event) -> bool:
    kept = _KEPT.get(event.type, set())
    return kept is None or event.content.keys() <= kept


def _check_redactor(
    server: SimulatedServer, one: Stored, stored: dict[EventId, Stored], found: Found
) -> None:
    by = stored.get(one.row["redacted_by"])
    is_redacted = by is not None and by.row["redacted_by"] is not None  # it names nothing then
    names_it = by is not None and (is_redacted or by.event.redacts == one.event.event_id)
    if by is None or not names_it or by.row["live_index"] is None:
        found(f"{server.name}: {one.event.event_id} is redacted by nothing that counts")
    if not _is_redacted(one.event):
        found(f"{server.name}: {one.event.event_id} counts as redacted, and isn't")


def _check_applied(server: SimulatedServer, stored: dict[EventId, Stored], found: Found) -> None:
    for one in stored.values():
        target = stored.get(one.event.redacts) if one.event.redacts is not None else None
        if target is None or one.row["position"] is None or target.row["position"] is None:
            continue
        is_same_server = server_of(target.event.sender) == server_of(one.event.sender)
        if is_same_server and target.row["redacted_by"] is None:
            found(
                f"{server.name}: {one.event.event_id} should have redacted {target.event.event_id}"
            )
