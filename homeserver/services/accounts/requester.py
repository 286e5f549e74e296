"""The requester: the user and device that an access token stands for."""

from __future__ import annotations

from dataclasses import dataclass

from federation.events.ids import DeviceId, UserId
from homeserver.errors import missing_param
from homeserver.rules.appservices.registrations import AppService

NO_DEVICE = DeviceId("")
"""Stands for no device: an application service may act as a user alone."""

NO_TOKEN = 0
"""The number of no access token."""


@dataclass(frozen=True, slots=True)
class Requester:
    """A logged-in user on one device. `token_id` numbers the access token, which ends at
    `expires_ms`, if ever. `appservice`: an application service acts as the user."""

    user_id: UserId
    device_id: DeviceId
    token_id: int
    is_guest: bool = False
    is_locked: bool = False
    is_suspended: bool = False
    is_admin: bool = False
    expires_ms: int | None = None
    appservice: AppService | None = None

    @property
    def is_limited(self) -> bool:
        """Returns whether rate limits apply."""
        return self.appservice is None or self.appservice.is_limited_as(self.user_id)

    def device(self) -> DeviceId:
        """Returns the device, for an operation that needs one. Raises 400 M_MISSING_PARAM if an
        application service names none."""
        if self.device_id == NO_DEVICE:
            raise missing_param("Missing parameter: device_id")
        return self.device_id
