"""Messages to devices: the shape of a request, and EDUs for other servers.

Spec: client-server API, "Send-to-Device messaging"; server-server API, "Send-to-device messaging".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import orjson

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, InvalidIdentifier, UserId, parse_user_id
from homeserver import limits
from homeserver.errors import bad_json, invalid_param, too_large
from homeserver.rules.encryption.device_keys import check_text

ALL_DEVICES = DeviceId("*")
Messages = Mapping[UserId, Mapping[DeviceId, JsonObject]]


class DeviceMessage(msgspec.Struct, frozen=True):
    """One message for one device, or for all of a user's (`ALL_DEVICES`). `content` is JSON."""

    user_id: UserId
    device_id: DeviceId
    content: bytes


def parse_messages(value: object) -> list[DeviceMessage]:
    """Parses `messages` of a request or an EDU: user ID to device ID to content. Raises
    MatrixError.
    """
    if not isinstance(value, dict):
        raise bad_json("messages must be an object")
    found: list[DeviceMessage] = []
    for user, by_device in value.items():
        try:
            user_id = parse_user_id(user)
        except InvalidIdentifier as error:
            raise invalid_param(str(error)) from error
        if not isinstance(by_device, dict):
            raise bad_json("messages must map users to devices to contents")
        for device, content in by_device.items():
            device_id = DeviceId(check_text(device, "A device ID"))
            found.append(DeviceMessage(user_id, device_id, encode_content(content)))
    if len(found) > limits.TO_DEVICE_RECIPIENTS:
        raise invalid_param(f"More than {limits.TO_DEVICE_RECIPIENTS} messages in one request")
    return found


def encode_content(content: object) -> bytes:
    """Serialises a message's content. Raises MatrixError."""
    if not isinstance(content, dict):
        raise bad_json("The content of a message must be an object")
    try:
        encoded = orjson.dumps(content)
    except orjson.JSONEncodeError as error:
        raise bad_json(f"The content of a message can't be stored: {error}") from error
    if len(encoded) > limits.TO_DEVICE_MESSAGE_BYTES:
        raise too_large(f"A message is larger than {limits.TO_DEVICE_MESSAGE_BYTES} bytes")
    return encoded


def build_message(sender: UserId, event_type: str, content: bytes) -> bytes:
    """Builds the event that a device gets in a sync, as JSON."""
    return orjson.dumps({"type": event_type, "sender": sender, "content": orjson.Fragment(content)})


def split_for_edus(messages: list[DeviceMessage]) -> Iterator[list[DeviceMessage]]:
    """Splits messages into parts of bounded number and size, in order."""
    part: list[DeviceMessage] = []
    size = 0
    for message in messages:
        is_full = size + len(message.content) > limits.TO_DEVICE_EDU_BYTES
        if part and (is_full or len(part) >= limits.TO_DEVICE_PER_EDU):
            yield part
            part, size = [], 0
        part.append(message)
        size += len(message.content)
    if part:
        yield part


def build_edu(
    sender: UserId, event_type: str, message_id: str, messages: list[DeviceMessage]
) -> bytes:
    """Builds an m.direct_to_device EDU as JSON."""
    by_user: dict[str, dict[str, orjson.Fragment]] = {}
    for one in messages:
        by_user.setdefault(one.user_id, {})[one.device_id] = orjson.Fragment(one.content)
    content = {
        "sender": sender,
        "type": event_type,
        "message_id": message_id,
        "messages": by_user,
    }
    return orjson.dumps({"edu_type": event_types.DIRECT_TO_DEVICE, "content": content})
