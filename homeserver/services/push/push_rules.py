"""Push rules of users: read and changed.

Rules:
1. A change is stored with the log entry of `m.push_rules`, in one unit: other devices get the whole
   ruleset with their next sync. A change that changes nothing makes no entry.
2. An event counts by the rules at its time: before a change is stored, all events that were stored
   before it are evaluated (`settled`).

Spec: client-server API, "Push Rules".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias
from weakref import WeakValueDictionary

import orjson

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, UserId
from homeserver import limits
from homeserver.engine.entries import AccountDataEntry, Entry, Unit, UnitLog
from homeserver.errors import bad_json, invalid_param, not_found, too_large
from homeserver.rules.push.own_rules import (
    NO_CHANGES,
    OwnRules,
    check_kind,
    copy_room_rule,
    decode_rules,
    delete_rule,
    encode_rules,
    put_rule,
    ruleset,
    set_actions,
    set_enabled,
)
from homeserver.rules.push.rule_requests import parse_actions, parse_enabled, parse_rule
from homeserver.storage.database import Connection, Database
from homeserver.storage.push import push_rules as store
from homeserver.storage.push.push_rules import PushRuleTable

PUSH_RULES = "m.push_rules"

Settled: TypeAlias = Callable[[], Awaitable[None]]
"""Returns once the events that are in the log are evaluated."""


class PushRules:
    """Reads and changes push rules."""

    def __init__(self, database: Database, committer: UnitLog, settled: Settled) -> None:
        self._table, self._committer, self._settled = PushRuleTable(database), committer, settled
        self._locks: WeakValueDictionary[UserId, asyncio.Lock] = WeakValueDictionary()

    async def ruleset(self, user_id: UserId) -> JsonObject:
        """Returns all rules: content of m.push_rules, and the answer of GET /pushrules/."""
        return _content(await self._own(user_id), user_id)

    async def of_kind(self, user_id: UserId, kind: str) -> list[JsonObject]:
        """Returns the rules of one kind, in order; 400 M_INVALID_PARAM for an unknown kind."""
        found: list[JsonObject] = ruleset(await self._own(user_id), user_id)[check_kind(kind)]
        return found

    async def rule(self, user_id: UserId, kind: str, rule_id: str) -> JsonObject:
        """Returns one rule; 404 M_NOT_FOUND."""
        for rule in await self.of_kind(user_id, kind):
            if rule["rule_id"] == rule_id:
                return rule
        raise not_found("There is no such push rule")

    async def put(
        self,
        user_id: UserId,
        kind: str,
        rule_id: str,
        body: JsonObject,
        *,
        before: str | None = None,
        after: str | None = None,
    ) -> None:
        """Adds or replaces a rule; 400 if it isn't one, or `before` or `after` isn't an own rule of
        the kind."""
        rule = parse_rule(check_kind(kind), rule_id, body)
        await self._change(
            user_id, lambda own: put_rule(own, kind, rule, before=before, after=after)
        )

    async def delete(self, user_id: UserId, kind: str, rule_id: str) -> None:
        """Removes an own rule; 404 M_NOT_FOUND for another one."""
        check_kind(kind)
        await self._change(user_id, lambda own: delete_rule(own, kind, rule_id))

    async def enable(self, user_id: UserId, kind: str, rule_id: str, body: JsonObject) -> None:
        """Enables or disables a rule; 404 M_NOT_FOUND."""
        check_kind(kind)
        enabled = parse_enabled(body)
        await self._change(user_id, lambda own: set_enabled(own, kind, rule_id, enabled=enabled))

    async def act(self, user_id: UserId, kind: str, rule_id: str, body: JsonObject) -> None:
        """Sets the actions of a rule; 404 M_NOT_FOUND."""
        check_kind(kind)
        actions = parse_actions(body)
        await self._change(user_id, lambda own: set_actions(own, kind, rule_id, actions))

    async def carry_over(self, user_id: UserId, old: RoomId, new: RoomId) -> None:
        """Copies the rule of a room to the room that replaces it; one that the new room has
        stays."""
        own = await self._own(user_id)
        if copy_room_rule(own, old, new) != own:
            await self._change(user_id, lambda own: copy_room_rule(own, old, new))

    async def settle(self) -> None:
        """Returns once the events that are in the log are evaluated: what is changed then concerns
        later ones only."""
        await self._settled()

    async def _own(self, user_id: UserId) -> OwnRules:
        return _decoded(await self._table.load(user_id))

    async def _change(self, user_id: UserId, step: Callable[[OwnRules], OwnRules]) -> None:
        async def work(connection: Connection) -> Sequence[Entry]:
            before = _decoded(await store.load(connection, user_id))
            own = step(before)
            if own == before:
                return []
            stored, content = _encoded(own, user_id)
            await store.store(connection, user_id, stored)
            return [AccountDataEntry(user_id, "", PUSH_RULES, content)]

        lock = self._locks.setdefault(user_id, asyncio.Lock())
        async with lock:  # units of one batch don't see each other's entries
            await self.settle()
            await self._committer.submit(Unit(work=work))


def _content(own: OwnRules, user_id: UserId) -> JsonObject:
    return {"global": ruleset(own, user_id)}


def _decoded(stored: bytes | None) -> OwnRules:
    return NO_CHANGES if stored is None else decode_rules(stored)


def _encoded(own: OwnRules, user_id: UserId) -> tuple[bytes, bytes]:
    """Returns rules as they are stored and as clients get them; 400 M_INVALID_PARAM for too many,
    413 M_TOO_LARGE, 400 M_BAD_JSON for numbers that can't be written."""
    if own.count > limits.PUSH_RULES_PER_USER:
        raise invalid_param(f"A user has at most {limits.PUSH_RULES_PER_USER} push rules")
    try:
        content = orjson.dumps(_content(own, user_id))
    except orjson.JSONEncodeError as error:
        raise bad_json(f"The rule can't be stored: {error}") from error
    stored = encode_rules(own)
    if len(stored) > limits.PUSH_RULES_BYTES:
        raise too_large(f"A user's push rules have at most {limits.PUSH_RULES_BYTES} bytes")
    return stored, content
