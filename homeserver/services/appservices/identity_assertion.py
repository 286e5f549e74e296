"""Who a request with an application service's token acts as.

Rules:
1. A service acts as its own user, or as a user of its namespaces that it names in the query; that
   user must exist. It acts as no device, or as one of that user's devices that it names.
2. For everybody else the names in the query mean nothing.

Spec: application service API, "Identity assertion"; MSC4326 for the unstable name.
"""

from __future__ import annotations

from typing import NamedTuple

from federation.errors import MatrixError
from federation.events.ids import DeviceId, UserId
from homeserver.errors import forbidden
from homeserver.rules.appservices.registrations import AppService
from homeserver.services.accounts.requester import NO_DEVICE, NO_TOKEN, Requester
from homeserver.services.appservices.registrations import Registrations
from homeserver.storage.appservices.identities import IdentityTable
from homeserver.storage.database import Database


class Assertion(NamedTuple):
    """The user and device that the query of a request names."""

    user_id: str | None = None
    device_id: str | None = None


class IdentityAssertion:
    """Finds application services by their tokens, and makes the requesters that they act as."""

    def __init__(self, database: Database, registrations: Registrations) -> None:
        self._identities, self._registrations = IdentityTable(database), registrations

    def service_of(self, token: str) -> AppService | None:
        """Returns the application service with a token, if it is one's."""
        return self._registrations.current.of_token(token)

    def own(self, service: AppService) -> Requester:
        """Returns the service as its own user, who may not exist any more: for endpoints that need
        no user."""
        return Requester(service.sender, NO_DEVICE, NO_TOKEN, appservice=service)

    async def requester(self, service: AppService, asserted: Assertion) -> Requester:
        """Returns who a service acts as. Raises 403 M_FORBIDDEN for a user that isn't its own or
        doesn't exist, 400 M_UNKNOWN_DEVICE."""
        user_id = service.sender if asserted.user_id is None else UserId(asserted.user_id)
        if not service.owns_user(user_id):
            raise forbidden("The user isn't in a namespace of this application service")
        device_id = None if asserted.device_id is None else DeviceId(asserted.device_id)
        found = await self._identities.load(user_id, device_id)
        if found is None:
            raise forbidden("The application service hasn't registered this user")
        if device_id is not None and not found.has_device:
            raise MatrixError(400, "M_UNKNOWN_DEVICE", "The user has no such device")
        return Requester(
            user_id,
            NO_DEVICE if device_id is None else device_id,
            NO_TOKEN,
            is_guest=found.is_guest,
            is_locked=found.is_locked,
            is_suspended=found.is_suspended,
            appservice=service,
        )
