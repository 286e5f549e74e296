"""The endpoint by which programs that share a secret with this server register users.

There only where `registration.shared_secret` is configured (`services.admin.shared_secret`).
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Auth, Route
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.accounts.logins import NewDevice
from homeserver.services.admin.shared_secret import SharedSecretRegistration, SignedRegistration

_PATH = "/_synapse/admin/v1/register"


class SharedSecretApi:
    """Handlers over the service `SharedSecretRegistration`."""

    def __init__(self, registration: SharedSecretRegistration) -> None:
        self._registration = registration

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        return [
            Route("GET", _PATH, self.nonce, Auth.NONE, Limit.READS),
            Route("POST", _PATH, self.register, Auth.NONE, Limit.READS),
        ]

    async def nonce(self, _request: Request) -> JsonObject:
        """GET: a nonce for one registration."""
        return {"nonce": self._registration.nonce()}

    async def register(self, request: Request) -> JsonObject:
        """POST: makes an account."""
        asked = await request.parse(SignedRegistration)
        device = NewDevice(None, None, request.address)
        made = await self._registration.register(asked, device)
        return {
            "user_id": made.user_id,
            "home_server": made.user_id.partition(":")[2],
            "access_token": made.token,
            "device_id": made.device_id,
        }
