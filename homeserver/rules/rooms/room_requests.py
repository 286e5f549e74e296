"""The request of createRoom, and checks that need nothing else.

Rules:
1. Checks here need neither the room nor the database.
2. Third-party invites are refused: this server has no identity server.
3. `null` counts as not given, since many clients send it.

Spec: client-server API, "Creation" (data/api/client-server/create_room.yaml).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import (
    InvalidIdentifier,
    RoomAlias,
    ServerName,
    UserId,
    parse_room_alias,
    parse_user_id,
)
from federation.events.room_versions import SUPPORTED, RoomVersion
from homeserver import errors, limits

Preset = Literal["private_chat", "trusted_private_chat", "public_chat"]


class InitialState(msgspec.Struct, frozen=True):
    """One state event that the client wants in the new room."""

    type: str
    content: dict[str, Any]
    state_key: str = ""


class RoomRequest(msgspec.Struct, frozen=True):
    """The body of createRoom, of the right shape but not yet checked."""

    visibility: Literal["public", "private"] | None = None
    room_alias_name: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: tuple[str, ...] | None = None
    invite_3pid: tuple[dict[str, Any], ...] | None = None
    room_version: str | None = None
    creation_content: dict[str, Any] | None = None
    initial_state: tuple[InitialState, ...] | None = None
    preset: Preset | None = None
    is_direct: bool | None = None
    power_level_content_override: dict[str, Any] | None = None


def parse_room_request(body: JsonObject) -> RoomRequest:
    """Parses a body of canonical JSON. Raises 400 M_BAD_JSON for a wrong shape, 400
    M_INVALID_PARAM for too many invites, 400 M_TOO_LARGE for too much initial state."""
    try:
        request = msgspec.convert(body, RoomRequest)
    except msgspec.ValidationError as error:
        raise errors.bad_json(str(error)) from error
    if len(request.invite_3pid or ()) > limits.CREATE_ROOM_ADDRESSES:
        raise errors.invalid_param(
            f"At most {limits.CREATE_ROOM_ADDRESSES} addresses can be invited with createRoom"
        )
    if len(request.initial_state or ()) > limits.CREATE_ROOM_STATE:
        raise MatrixError(
            400, "M_TOO_LARGE", f"initial_state has more than {limits.CREATE_ROOM_STATE} events"
        )
    if len(request.invite or ()) > limits.CREATE_ROOM_INVITES:
        raise errors.invalid_param(
            f"At most {limits.CREATE_ROOM_INVITES} users can be invited with createRoom"
        )
    return request


def preset_of(request: RoomRequest) -> Preset:
    """Returns the requested preset, or the one that the visibility implies."""
    if request.preset is not None:
        return request.preset
    return "public_chat" if request.visibility == "public" else "private_chat"


def choose_version(name: str | None, default: RoomVersion) -> RoomVersion:
    """Returns the requested room version. Raises 400 M_UNSUPPORTED_ROOM_VERSION."""
    if name is None:
        return default
    version = SUPPORTED.get(name)
    if version is None:
        raise MatrixError(
            400,
            "M_UNSUPPORTED_ROOM_VERSION",
            f"Room version {name[: limits.QUOTED_CHARACTERS]!r} isn't supported here",
        )
    return version


def parse_invitees(request: RoomRequest, creator: UserId) -> Sequence[UserId]:
    """Returns the users to invite, each once, in order, without the creator. Raises 400
    M_INVALID_PARAM for an invalid user ID."""
    return parse_users(request.invite or (), without=creator)


def parse_users(texts: Sequence[object], *, without: UserId) -> Sequence[UserId]:
    """Returns user IDs, each once, in order, `without` left out. Raises 400 M_INVALID_PARAM."""
    users: dict[UserId, None] = {}
    for text in texts:
        try:
            if not isinstance(text, str):
                raise InvalidIdentifier("not a string")
            users[parse_user_id(text)] = None
        except InvalidIdentifier as error:
            raise errors.invalid_param(
                f"{str(text)[: limits.QUOTED_ID_CHARACTERS]!r} is not a user ID: {error}"
            ) from error
    users.pop(without, None)
    return tuple(users)


def build_alias(localpart: str, server_name: ServerName) -> RoomAlias:
    """Returns the alias `#localpart:server_name`. Raises 400 M_INVALID_PARAM for an invalid or
    unusable one (empty, white space, a colon)."""
    if not localpart or ":" in localpart or any(char.isspace() for char in localpart):
        raise errors.invalid_param("A room alias has no empty name, no white space and no ':'")
    try:
        return parse_room_alias(f"#{localpart}:{server_name}")
    except InvalidIdentifier as error:
        raise errors.invalid_param(f"Room alias invalid: {error}") from error
