"""Explanations as text, the output of `freehold explain`.

Rules:
1. Event IDs are shortened as far as they stay distinct; a list at the end has the whole IDs.
2. Plain text, one fact per line, at most one level of indentation below a heading.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from federation.events.ids import EventId, StateKey
from federation.events.room_versions import room_version
from federation.graph.auth.rule_numbers import page_of
from federation.graph.explain.explain import (
    Chosen,
    EventExplanation,
    Explanation,
    KeyOutcome,
    Replayed,
    ResolutionExplanation,
    ResolutionSummary,
)

_SHORT = 9
_Name = Callable[[EventId | None], str]


def event_text(told: EventExplanation) -> str:
    """Returns an event's explanation as text, with a newline at the end."""
    return "\n".join(_event_lines(told)) + "\n"


def resolution_text(told: ResolutionExplanation) -> str:
    """Returns a resolution's explanation as text, with a newline at the end."""
    return "\n".join(_resolution_lines(told)) + "\n"


def short_names(event_ids: Collection[EventId]) -> Mapping[EventId, str]:
    """Returns the shortest distinct prefixes of the event IDs, of at least 9 characters."""
    size = _SHORT
    while len({event_id[:size] for event_id in event_ids}) < len(set(event_ids)):
        size += 1
    return {event_id: event_id[:size] for event_id in event_ids}


def _printable(text: str) -> str:
    """Makes control characters visible, so that remote input can't control the terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def key_text(key: StateKey) -> str:
    """Returns a state key as text that can't control the terminal."""
    return _printable(f"{key[0]} {key[1]!r}" if key[1] else key[0])


def _line_of(summary: ResolutionSummary) -> str:
    key = "" if not summary.state_key else f" {summary.state_key!r}"
    membership = "" if summary.membership is None else f" ({summary.membership})"
    return _printable(f"{summary.type}{key}{membership} by {summary.sender}")


# --- one event ----------------------------------------------------------------------------------


def _event_lines(told: EventExplanation) -> Iterator[str]:
    whole: _Name = lambda event_id: "nothing" if event_id is None else event_id  # noqa: E731
    yield f"Event {told.event.event_id}"
    yield f"  {_line_of(told.event)}"
    yield f"  room version {told.room_version}, depth {told.event.depth}"
    reason = "" if told.verdict.reason is None else f": {_printable(told.verdict.reason)}"
    yield f"  stored as {told.verdict.kind.replace('_', ' ')}{reason}"
    if told.verdict.unverified:
        yield "  the state before it is another server's word"
    if told.content_redacted:
        yield "  its content is not what was hashed: it was redacted, when it came or since"
    yield ""
    yield "It follows"
    yield from (f"  {event_id}" for event_id in told.prev_events)
    yield "It cites as its authorisation"
    yield from (f"  {one.event_id}  {_line_of(one)}" for one in told.auth_events)
    yield from (f"  {event_id}  is not here" for event_id in told.missing)
    yield ""
    yield f"Checks on receipt, by {page_of(room_version(told.room_version))}"
    yield from _check_lines("4, its auth events", told.by_auth_events, whole)
    yield from _check_lines("5, the state before it", told.by_state_before, whole)
    yield from _check_lines("6, the room's state as of now", told.by_current_state, whole)


def _check_lines(title: str, check: Explanation | None, name: _Name) -> Iterator[str]:
    if check is None:
        yield f"  {title}: can't be replayed, something it needs is not here"
        return
    yield f"  {title}: {_decision(check)}"
    yield from _consulted_lines(check, name)


def _decision(check: Explanation) -> str:
    if check.failure is None:
        return "allowed" if check.number is None else f"allowed by rule {check.number}"
    number = "" if check.number is None else f" {check.number}"
    return _printable(f"refused by rule{number}, {check.failure}")


def _consulted_lines(check: Explanation, name: _Name) -> Iterator[str]:
    if check.consulted:
        looked = "; ".join(f"{key_text(one.key)} {name(one.event_id)}" for one in check.consulted)
        yield f"      looked at {looked}"


# --- a fork -------------------------------------------------------------------------------------


def _resolution_lines(told: ResolutionExplanation) -> Iterator[str]:
    names = short_names(told.events.keys())

    def name(event_id: EventId | None) -> str:
        return "nothing" if event_id is None else names[event_id]

    version = f"{told.algorithm}, room version {told.room_version}"
    yield f"{len(told.labels)} states, resolved by {version}"
    yield from (f"  S{i + 1}: {_printable(label)}" for i, label in enumerate(told.labels))
    yield ""
    yield f"They agree on {told.unconflicted_count} entries, and differ on {len(told.conflicted)}"
    for one in told.conflicted:
        events = ", ".join(f"S{i + 1} {name(e)}" for i, e in enumerate(one.event_ids))
        yield f"  {key_text(one.key)}: {events}"
    if not told.conflicted:
        return
    yield ""
    yield from _v1_lines(told, name) if told.algorithm == "v1" else _v2_lines(told, name)
    yield "The result"
    yield from (f"  {_outcome(one, name)}" for one in told.outcomes)
    yield ""
    yield "Events"
    for event_id, summary in told.events.items():
        yield f"  {name(event_id)}  {_line_of(summary)}"
        yield f"      {event_id}, at {summary.origin_server_ts}, depth {summary.depth}"


def _v1_lines(told: ResolutionExplanation, name: _Name) -> Iterator[str]:
    for one in told.choices:
        yield f"Tried for {key_text(one.key)}, in this order"
        yield from _tried_lines(one, name)
        yield ""


def _tried_lines(one: Chosen, name: _Name) -> Iterator[str]:
    for check in one.tried:
        decision = "taken without a check" if check.number is None else _decision(check)
        yield f"  {name(check.event_id)}: {decision}"
        if check.number is not None:
            yield from _consulted_lines(check, name)


def _v2_lines(told: ResolutionExplanation, name: _Name) -> Iterator[str]:
    yield "Also in the full conflicted set"
    yield f"  the auth difference: {_list(told.auth_difference, name)}"
    if told.algorithm == "v2.1":
        yield f"  the conflicted state subgraph: {_list(told.subgraph, name)}"
    yield ""
    start = "nothing" if told.algorithm == "v2.1" else "the unconflicted state"
    yield f"Steps 1 and 2: power events, in reverse topological power ordering, on {start}"
    for one in told.power_events:
        yield f"  {_replayed(one, f'sender level {_level(one)}', name)}"
        yield from _consulted_lines(one.check, name)
    yield ""
    yield f"Steps 3 and 4: the others, by the mainline {_list(told.mainline, name)}"
    for one in told.others:
        place = "infinite" if one.position is None else str(one.position)
        yield f"  {_replayed(one, f'mainline position {place}', name)}"
        yield from _consulted_lines(one.check, name)
    yield ""
    yield "Step 5: what the states agree on stays as it is"
    yield ""


def _level(one: Replayed) -> str:
    return "infinite" if isinstance(one.sender_level, float) else str(one.sender_level)


def _replayed(one: Replayed, place: str, name: _Name) -> str:
    return f"{name(one.check.event_id)} ({place}): {_decision(one.check)}"


def _list(event_ids: Collection[EventId], name: _Name) -> str:
    return ", ".join(map(name, event_ids)) or "empty"


def _outcome(one: KeyOutcome, name: _Name) -> str:
    where = ", ".join(f"S{i + 1}" for i in one.in_states)
    source = f"as in {where}" if where else "as in none of the states"
    return f"{key_text(one.key)}: {name(one.event_id)}, {source}"
