"""Received EDUs: parsed, bounded, cleaned of what their origin may not say, handed to the sink.

Rules:
1. An origin speaks only for its own users; parts about others are dropped, the rest counts.
2. EDUs of a room are dropped where the room's server ACL denies the origin.
3. A malformed, oversized or unknown EDU is ignored, alone; the others go on. What the sink raises
   is passed on: the transaction fails and the origin sends it again.
4. EDUs about devices don't depend on the events of their transaction, but events may depend on
   them: a message can't be read before its key is there (`before_events`).

Spec: server-server API, "EDUs" and the sections of each type; "Server access control lists".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import groupby
from typing import TypeVar

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import (
    InvalidIdentifier,
    RoomId,
    ServerName,
    UserId,
    parse_room_id,
    parse_user_id,
    server_of,
)
from federation.limits import (
    IDENTIFIER_BYTES_MAX,
    PRESENCE_AGO_MS_MAX,
    PRESENCE_STATUS_CHARACTERS_MAX,
    PRESENCE_UPDATES_PER_EDU_MAX,
    RECEIPTS_PER_EDU_MAX,
    TO_DEVICE_MESSAGE_ID_BYTES_MAX,
    TO_DEVICE_MESSAGES_PER_EDU_MAX,
)
from federation.metrics import FederationMetrics
from federation.ports import EduSink
from federation.transport.acl import ServerAcls

_Edu = TypeVar("_Edu")
_PRESENCES = frozenset({"online", "offline", "unavailable"})
_PRESENCE_KEYS = ("user_id", "presence", "last_active_ago", "currently_active", "status_msg")
_ABOUT_DEVICES = frozenset(
    {event_types.DIRECT_TO_DEVICE, event_types.DEVICE_LIST_UPDATE, event_types.SIGNING_KEY_UPDATE}
)


class InvalidEdu(ValueError):
    """An EDU that is ignored; the text says why."""


class EduReceiver:
    """Takes the EDUs of one transaction after the other."""

    def __init__(
        self, name: ServerName, *, sink: EduSink, acls: ServerAcls, metrics: FederationMetrics
    ) -> None:
        self._name, self._sink, self._acls, self._metrics = name, sink, acls, metrics
        self._handlers: Mapping[str, Callable[[ServerName, JsonObject], Awaitable[None]]] = {
            event_types.TYPING: self._typing,
            event_types.RECEIPT: self._receipts,
            event_types.DIRECT_TO_DEVICE: self._to_device,
            event_types.DEVICE_LIST_UPDATE: self._device_list_update,
            event_types.SIGNING_KEY_UPDATE: self._signing_key_update,
            event_types.PRESENCE: self._presence,
        }

    async def receive_all(self, origin: ServerName, edus: Sequence[object]) -> None:
        """Hands on the EDUs of a transaction, in order. Messages to devices that follow each other
        go side by side, so that they are stored together; the sink keeps their order."""
        for is_to_device, some in groupby(edus, key=_is_to_device):
            if not is_to_device:
                for edu in some:
                    await self.receive(origin, edu)
                continue
            work = [self.receive(origin, edu) for edu in some]
            for outcome in await asyncio.gather(*work, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome

    async def receive(self, origin: ServerName, edu: object) -> bool:
        """Hands one EDU on; False when it was ignored."""
        content = edu.get("content") if isinstance(edu, dict) else None
        handler = self._handlers.get(_edu_type(edu))
        if handler is None or not isinstance(content, dict):
            self._metrics.federation_edus_ignored.inc("unknown")
            return False
        try:
            await handler(origin, content)
        except (InvalidEdu, InvalidIdentifier):
            self._metrics.federation_edus_ignored.inc("invalid")
            return False
        return True

    async def _typing(self, origin: ServerName, content: JsonObject) -> None:
        room_id = _room(content.get("room_id"))
        user_id = _user_of(origin, content.get("user_id"))
        typing = content.get("typing")
        if not isinstance(typing, bool):
            raise InvalidEdu("typing is not a boolean")
        if await self._acls.allows(room_id, origin):
            await self._sink.typing(origin, room_id, user_id, typing)

    async def _receipts(self, origin: ServerName, content: JsonObject) -> None:
        """Keeps well-formed receipts of the origin's users in rooms that admit the origin."""
        kept: JsonObject = {}
        left = RECEIPTS_PER_EDU_MAX
        for room, by_type in content.items():
            receipts = _receipts_of(origin, by_type)
            left -= sum(len(users) for users in receipts.values())
            if left < 0:
                raise InvalidEdu("too many receipts")
            if receipts and await self._acls.allows(_room(room), origin):
                kept[room] = receipts
        if kept:
            await self._sink.receipts(origin, kept)

    async def _to_device(self, origin: ServerName, content: JsonObject) -> None:
        _user_of(origin, content.get("sender"))
        _text(content.get("type"), "type", IDENTIFIER_BYTES_MAX)
        _text(content.get("message_id"), "message_id", TO_DEVICE_MESSAGE_ID_BYTES_MAX)
        messages = content.get("messages")
        if not isinstance(messages, dict):
            raise InvalidEdu("messages is not an object")
        kept: JsonObject = {}
        left = TO_DEVICE_MESSAGES_PER_EDU_MAX
        for user, by_device in messages.items():
            if not isinstance(by_device, dict) or not _is_user_of(self._name, user):
                continue
            kept[user] = {device: m for device, m in by_device.items() if isinstance(m, dict)}
            left -= len(by_device)
            if left < 0:
                raise InvalidEdu("too many messages")
        if kept:
            await self._sink.to_device(origin, {**content, "messages": kept})

    async def _device_list_update(self, origin: ServerName, content: JsonObject) -> None:
        _user_of(origin, content.get("user_id"))
        _text(content.get("device_id"), "device_id", IDENTIFIER_BYTES_MAX)
        stream_id = content.get("stream_id")
        if not isinstance(stream_id, int) or isinstance(stream_id, bool):
            raise InvalidEdu("stream_id is not an integer")
        before = content.get("prev_id", [])
        if not isinstance(before, list) or not all(isinstance(one, int) for one in before):
            raise InvalidEdu("prev_id is not a list of integers")
        if not isinstance(content.get("keys", {}), dict):
            raise InvalidEdu("keys is not an object")
        await self._sink.device_list_update(origin, content)

    async def _signing_key_update(self, origin: ServerName, content: JsonObject) -> None:
        _user_of(origin, content.get("user_id"))
        for name in ("master_key", "self_signing_key"):
            if not isinstance(content.get(name, {}), dict):
                raise InvalidEdu(f"{name} is not an object")
        await self._sink.signing_key_update(origin, content)

    async def _presence(self, origin: ServerName, content: JsonObject) -> None:
        push = content.get("push")
        if not isinstance(push, list) or len(push) > PRESENCE_UPDATES_PER_EDU_MAX:
            raise InvalidEdu("no presence updates, or too many")
        kept = [_presence_of(update) for update in push if _is_presence(origin, update)]
        if kept:
            await self._sink.presence(origin, {"push": kept})


def before_events(edus: Sequence[_Edu]) -> tuple[Sequence[_Edu], Sequence[_Edu]]:
    """Returns the EDUs of a transaction that are handled before its events, and those that are
    handled after them, such as receipts: they may refer to these events."""
    first = [edu for edu in edus if _edu_type(edu) in _ABOUT_DEVICES]
    return first, [edu for edu in edus if _edu_type(edu) not in _ABOUT_DEVICES]


def _edu_type(edu: object) -> str:
    edu_type = edu.get("edu_type") if isinstance(edu, dict) else None
    return edu_type if isinstance(edu_type, str) else ""


def _is_to_device(edu: object) -> bool:
    return _edu_type(edu) == event_types.DIRECT_TO_DEVICE


def _receipts_of(origin: ServerName, by_type: object) -> dict[str, JsonObject]:
    if not isinstance(by_type, dict):
        return {}
    found: dict[str, JsonObject] = {}
    for kind, users in by_type.items():
        if not isinstance(users, dict):
            continue
        kept = {
            user: receipt
            for user, receipt in users.items()
            if _is_user_of(origin, user) and _is_receipt(receipt)
        }
        if kept:
            found[kind] = kept
    return found


def _is_receipt(receipt: object) -> bool:
    if not isinstance(receipt, dict) or not isinstance(receipt.get("data", {}), dict):
        return False
    ids = receipt.get("event_ids")
    return isinstance(ids, list) and len(ids) == 1 and isinstance(ids[0], str)


def _is_presence(origin: ServerName, update: object) -> bool:
    """Returns whether it is the presence of a user of `origin`, with values that can be."""
    if not isinstance(update, dict) or not _is_user_of(origin, update.get("user_id")):
        return False
    ago_ms, status = update.get("last_active_ago"), update.get("status_msg")
    is_time = ago_ms is None or (
        isinstance(ago_ms, int)
        and not isinstance(ago_ms, bool)
        and 0 <= ago_ms <= PRESENCE_AGO_MS_MAX
    )
    is_status = status is None or (
        isinstance(status, str) and len(status) <= PRESENCE_STATUS_CHARACTERS_MAX
    )
    is_active = isinstance(update.get("currently_active", False), bool)
    state = update.get("presence")
    return is_time and is_status and is_active and isinstance(state, str) and state in _PRESENCES


def _presence_of(update: JsonObject) -> JsonObject:
    """Returns an update without unknown keys."""
    return {key: update[key] for key in _PRESENCE_KEYS if update.get(key) is not None}


def _text(value: object, what: str, bytes_max: int) -> str:
    if not isinstance(value, str) or len(value.encode(errors="replace")) > bytes_max:
        raise InvalidEdu(f"{what} is not a string, or too long")
    return value


def _room(value: object) -> RoomId:
    return parse_room_id(_text(value, "room_id", IDENTIFIER_BYTES_MAX))


def _user_of(server: ServerName, value: object) -> UserId:
    """Returns the user ID, which must be of `server`."""
    user_id = parse_user_id(_text(value, "user_id", IDENTIFIER_BYTES_MAX))
    if server_of(user_id) != server:
        raise InvalidEdu("a user of another server")
    return user_id


def _is_user_of(server: ServerName, value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return server_of(parse_user_id(value)) == server
    except InvalidIdentifier:
        return False
