"""Requests that the machine wants made, as values. The client makes them and reports back.

Rules:
1. A request stays outstanding, and is handed out again, until `Machine.mark_sent` or `mark_failed`.
2. `SendToDevice` is saved before it is handed out, and keeps its transaction ID over a restart:
   made twice, it is delivered once.

Spec: client-server API, "Key management API" and "Send-to-device messaging".
"""

from dataclasses import dataclass
from typing import Any

import msgspec

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class UploadKeys:
    """`POST /keys/upload` with `body`."""

    request_id: str
    body: JsonObject


@dataclass(frozen=True, slots=True)
class QueryKeys:
    """`POST /keys/query` for all devices of `users`."""

    request_id: str
    users: tuple[str, ...]

    @property
    def body(self) -> JsonObject:
        """The request's body."""
        return {"device_keys": {user: [] for user in self.users}}


@dataclass(frozen=True, slots=True)
class ClaimKeys:
    """`POST /keys/claim` of one signed one-time key for each (user, device)."""

    request_id: str
    devices: tuple[tuple[str, str], ...]

    @property
    def body(self) -> JsonObject:
        """The request's body."""
        wanted: dict[str, dict[str, str]] = {}
        for user_id, device_id in self.devices:
            wanted.setdefault(user_id, {})[device_id] = "signed_curve25519"
        return {"one_time_keys": wanted}


class SendToDevice(msgspec.Struct, frozen=True):
    """`PUT /sendToDevice/{event_type}/{request_id}` with `messages` by user and device."""

    request_id: str
    sequence: int
    event_type: str
    messages: dict[str, dict[str, JsonObject]]
    session_id: str = ""

    @property
    def body(self) -> JsonObject:
        """The request's body."""
        return {"messages": self.messages}


Request = UploadKeys | QueryKeys | ClaimKeys | SendToDevice
