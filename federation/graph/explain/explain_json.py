"""Explanations as JSON, for programs: `freehold explain --json`, the lab, records of resolutions.

Rules:
1. `format` is raised when a field changes its meaning or is removed. Readers ignore fields that
   they do not know, so a new field does not raise it.
2. Event IDs are not shortened. `events` describes each event once.
3. An infinite level (a creator's) is the string "infinite"; JSON has no number for it.

docs/event-graph.md has the schema.
"""

from __future__ import annotations

from typing import Final

from federation.events.canonical_json import JsonObject
from federation.events.ids import StateKey
from federation.events.room_versions import room_version
from federation.graph.auth.power_levels import Level
from federation.graph.auth.rule_numbers import page_of
from federation.graph.explain.explain import (
    Chosen,
    Conflicted,
    EventExplanation,
    Explanation,
    KeyOutcome,
    Replayed,
    ResolutionExplanation,
    ResolutionSummary,
)

FORMAT: Final = 1


def event_json(told: EventExplanation) -> JsonObject:
    """Returns the JSON form of an event's explanation."""
    return {
        "format": FORMAT,
        "kind": "event",
        "room_version": told.room_version,
        "rules": page_of(room_version(told.room_version)),
        "event": _summary(told.event),
        "verdict": told.verdict.kind,
        "reason": told.verdict.reason,
        "unproven": told.verdict.unverified,
        "content_redacted": told.content_redacted,
        "prev_events": list(told.prev_events),
        "auth_events": [_summary(one) for one in told.auth_events],
        "missing_auth_events": list(told.missing),
        "checks": {
            "auth_events": _optional(told.by_auth_events),
            "state_before": _optional(told.by_state_before),
            "current_state": _optional(told.by_current_state),
        },
    }


def resolution_json(told: ResolutionExplanation) -> JsonObject:
    """Returns the JSON form of a resolution's explanation."""
    return {
        "format": FORMAT,
        "kind": "resolution",
        "room_version": told.room_version,
        "rules": page_of(room_version(told.room_version)),
        "algorithm": told.algorithm,
        "states": list(told.labels),
        "unconflicted": told.unconflicted_count,
        "conflicted": [_conflicted(one) for one in told.conflicted],
        "auth_difference": list(told.auth_difference),
        "conflicted_subgraph": list(told.subgraph),
        "power_events": [_replayed(one) for one in told.power_events],
        "mainline": list(told.mainline),
        "others": [_replayed(one) for one in told.others],
        "choices": [_chosen(one) for one in told.choices],
        "result": [_outcome(one) for one in told.outcomes],
        "events": {event_id: _summary(one) for event_id, one in told.events.items()},
    }


def _key(key: StateKey) -> JsonObject:
    return {"type": key[0], "state_key": key[1]}


def _summary(summary: ResolutionSummary) -> JsonObject:
    return {
        "event_id": summary.event_id,
        "type": summary.type,
        "state_key": summary.state_key,
        "sender": summary.sender,
        "origin_server_ts": summary.origin_server_ts,
        "depth": summary.depth,
        "membership": summary.membership,
    }


def _optional(check: Explanation | None) -> JsonObject | None:
    return None if check is None else _check(check)


def _check(check: Explanation) -> JsonObject:
    failure = check.failure
    return {
        "event_id": check.event_id,
        "allowed": check.is_allowed,
        "rule": None if failure is None else failure.rule.value,
        "number": check.number,
        "detail": None if failure is None else failure.detail,
        "consulted": [{**_key(one.key), "event_id": one.event_id} for one in check.consulted],
    }


def _level(level: Level | None) -> int | str | None:
    return "infinite" if isinstance(level, float) else level


def _replayed(one: Replayed) -> JsonObject:
    return {
        **_check(one.check),
        "sender_level": _level(one.sender_level),
        "mainline_position": one.position,
    }


def _conflicted(one: Conflicted) -> JsonObject:
    return {**_key(one.key), "event_ids": list(one.event_ids)}


def _chosen(one: Chosen) -> JsonObject:
    return {
        **_key(one.key),
        "tried": [_check(check) for check in one.tried],
        "chosen": one.chosen,
    }


def _outcome(one: KeyOutcome) -> JsonObject:
    return {**_key(one.key), "event_id": one.event_id, "in_states": list(one.in_states)}
