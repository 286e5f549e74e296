"""What has to be bundled with events, worked out from all the events that a reader sees: naively,
and only with the specification's words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

Json = dict[str, Any]


def relation(event: Json) -> tuple[str, str] | None:
    """The kind of an event's relation, and the other event."""
    found = event["content"].get("m.relates_to")
    if not isinstance(found, dict) or "rel_type" not in found:
        return None
    return found["rel_type"], found["event_id"]


def children(seen: Sequence[Json], parent: str, ignored: Collection[str]) -> list[Json]:
    """The events that relate to one, oldest first."""
    return [
        one
        for one in seen
        if one["sender"] not in ignored
        and (related := relation(one)) is not None
        and related[1] == parent
    ]


def descendants(
    seen: Sequence[Json], parent: str, ignored: Collection[str], depth: int
) -> list[Json]:
    """The events that relate to one, also over others, oldest first."""
    found = {parent}
    for _ in range(depth):
        found |= {c["event_id"] for one in list(found) for c in children(seen, one, ignored)}
    return [one for one in seen if one["event_id"] in found - {parent}]


def bundle(seen: Sequence[Json], event: Json, reader: str, ignored: Collection[str]) -> Json:
    """What is bundled with an event; events by their IDs alone. `seen` is in the room's order."""
    if "state_key" in event:
        return {}
    found: Json = {}
    mine = children(seen, event["event_id"], ignored)
    edits = [
        one
        for one in mine
        if relation(one) == ("m.replace", event["event_id"])
        and one["sender"] == event["sender"]
        and one["type"] == event["type"]
        and "state_key" not in one
        and isinstance(one["content"].get("m.new_content"), dict)
    ]
    is_edit = (relation(event) or ("",))[0] == "m.replace"
    is_redacted = not event["content"]  # its redaction may be hidden from the reader
    if edits and not is_edit and not is_redacted:
        newest = max(edits, key=lambda one: (one["origin_server_ts"], one["event_id"]))
        found["m.replace"] = newest["event_id"]
    references = [one["event_id"] for one in mine if (relation(one) or ("",))[0] == "m.reference"]
    if references:
        found["m.reference"] = references
    thread = [one for one in mine if (relation(one) or ("",))[0] == "m.thread"]
    if thread and relation(event) is None:
        found["m.thread"] = {
            "latest": (thread[-1]["event_id"], bundle(seen, thread[-1], reader, ignored)),
            "count": len(thread),
            "spoke": reader in {event["sender"], *(one["sender"] for one in thread)},
        }
    return found


def shown(event: Json) -> Json:
    """What an event of an answer has bundled, in the form of `bundle`."""
    relations = event.get("unsigned", {}).get("m.relations", {})
    found: Json = {}
    if "m.replace" in relations:
        found["m.replace"] = relations["m.replace"]["event_id"]
    if "m.reference" in relations:
        found["m.reference"] = [one["event_id"] for one in relations["m.reference"]["chunk"]]
    if "m.thread" in relations:
        thread = relations["m.thread"]
        latest = thread["latest_event"]
        found["m.thread"] = {
            "latest": (latest["event_id"], shown(latest)),
            "count": thread["count"],
            "spoke": thread["current_user_participated"],
        }
    return found


def threads(seen: Sequence[Json], ignored: Collection[str]) -> list[str]:
    """The roots of a room's threads, the one with the newest event first."""
    newest: dict[str, int] = {}
    roots = {one["event_id"] for one in seen if relation(one) is None}
    for place, one in enumerate(seen):
        related = relation(one)
        is_child = related is not None and related[0] == "m.thread" and related[1] in roots
        if related is not None and is_child and one["sender"] not in ignored:
            newest[related[1]] = place
    return sorted(newest, key=lambda root: -newest[root])
