"""Walks over spaces that wait for their next page, in memory, each under a token.

A walk never changes: the page after it is another one. The oldest are dropped where there are too
many, in all or of one user; a dropped one is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import immutables
import msgspec

from federation.bounded_cache import BoundedCache, ByteBoundedCache
from federation.events.ids import RoomId, ServerName, UserId
from federation.events.signing import encode_base64_url
from federation.ports import Clock
from homeserver import limits

Source: TypeAlias = tuple[RoomId, tuple[ServerName, ...], ServerName | None, bool]


class WalkStep(msgspec.Struct, frozen=True):
    """A room that a walk comes to next: how deep it is below the root, and servers to ask for it.
    `teller` is the server that showed its parent, if another did; `is_inaccessible` what it says
    of the room."""

    room_id: RoomId
    via: tuple[ServerName, ...]
    depth: int
    teller: ServerName | None = None
    is_inaccessible: bool = False

    @property
    def source(self) -> Source:
        """The room and whom it is known from, so that one parent's `via` doesn't decide for all."""
        return (self.room_id, self.via, self.teller, self.is_inaccessible)


class Walk(msgspec.Struct, frozen=True):
    """A walk from a room on: what was asked for, the rooms on the way (the next one last), and the
    depth at which rooms were met."""

    user_id: UserId
    room_id: RoomId
    suggested_only: bool
    max_depth: int
    stack: tuple[WalkStep, ...] = ()
    seen: immutables.Map[RoomId, int] = immutables.Map()

    @property
    def bytes(self) -> int:
        """The memory that it takes, roughly."""
        names = sum(len(name) for step in self.stack for name in step.via)
        steps = limits.HIERARCHY_STEP_BYTES * len(self.stack) + names
        return limits.HIERARCHY_WALK_BYTES + steps + limits.HIERARCHY_SEEN_BYTES * len(self.seen)


class _Waiting(msgspec.Struct, frozen=True):
    walk: Walk
    until_s: float


class Walks:
    """The walks of all users, by token."""

    def __init__(self, clock: Clock, random_bytes: Callable[[int], bytes]) -> None:
        self._clock, self._random_bytes = clock, random_bytes
        self._waiting: ByteBoundedCache[str, _Waiting] = ByteBoundedCache(
            limits.HIERARCHY_WALKS_BYTES, lambda waiting: waiting.walk.bytes
        )
        self._of_user: BoundedCache[UserId, tuple[str, ...]] = BoundedCache(
            limits.HIERARCHY_WALK_USERS
        )

    def put(self, walk: Walk) -> str:
        """Keeps a walk; returns its token."""
        token = encode_base64_url(self._random_bytes(limits.HIERARCHY_TOKEN_BYTES))
        until_s = self._clock.monotonic_s() + limits.HIERARCHY_TOKEN_S
        self._waiting.put(token, _Waiting(walk, until_s))
        tokens = (*(self._of_user.get(walk.user_id) or ()), token)
        for old in tokens[: -limits.HIERARCHY_WALKS_PER_USER]:
            self._waiting.drop(old)
        self._of_user.put(walk.user_id, tokens[-limits.HIERARCHY_WALKS_PER_USER :])
        return token

    def get(self, token: str, user_id: UserId) -> Walk | None:
        """Returns a user's walk, if it is still known."""
        waiting = self._waiting.get(token)
        if waiting is None or waiting.walk.user_id != user_id:
            return None
        if waiting.until_s <= self._clock.monotonic_s():
            self._waiting.drop(token)
            return None
        return waiting.walk
