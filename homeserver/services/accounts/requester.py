"""The requester: the user and device that an access token stands for."""

from __future__ import annotations

from dataclasses import dataclass

from federation.events.ids import DeviceId, UserId


@dataclass(frozen=True, slots=True)
class Requester:
    """A logged-in user on one device. `token_id` numbers the access token, which ends at
    `expires_ms`, if ever."""

    user_id: UserId
    device_id: DeviceId
    token_id: int
    is_guest: bool = False
    is_locked: bool = False
    is_suspended: bool = False
    is_admin: bool = False
    expires_ms: int | None = None
