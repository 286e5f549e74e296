"""Addresses bound to users at identity servers, through this server.

What was bound is noted, so that it can be unbound: by the user, and when the account ends.

Spec: client-server API, POST /account/3pid/bind and /unbind; identity service API.
"""

from __future__ import annotations

import asyncio

from federation.events import canonical_json
from federation.events.ids import ServerName, UserId
from federation.events.signing import SigningKey
from federation.transport.requests.x_matrix import SignedRequest, build_authorization
from homeserver import limits
from homeserver.errors import invalid_param
from homeserver.outbound.identity_servers import V2, IdentityServers
from homeserver.rules.identity.third_party_ids import canonical_address, is_opaque
from homeserver.storage.database import Database
from homeserver.storage.identity.third_party_bindings import ThirdPartyBindingTable


class Bindings:
    """Binds and unbinds addresses."""

    def __init__(
        self,
        database: Database,
        servers: IdentityServers,
        server_name: ServerName,
        key: SigningKey,
    ) -> None:
        self._table, self._servers = ThirdPartyBindingTable(database), servers
        self._server_name, self._key = server_name, key

    async def bind(
        self, user_id: UserId, id_server: str, access_token: str, *, sid: str, client_secret: str
    ) -> None:
        """Binds what a session at an identity server proved. Raises MatrixError, also what the
        identity server says."""
        name = self._servers.check(id_server)
        if not is_opaque(sid) or not is_opaque(client_secret):
            raise invalid_param("sid and client_secret must be of 0-9, a-z, A-Z, . = _ -")
        if await self._table.count(user_id) >= limits.IDENTITY_BINDINGS_PER_USER:
            raise invalid_param("Too many addresses are bound")
        proof = {"sid": sid, "client_secret": client_secret, "mxid": user_id}
        medium, address = await self._servers.bind(name, access_token, proof)
        if (canonical := canonical_address(medium, address)) is not None:
            await self._table.add(user_id, medium, canonical, name)

    async def unbind(
        self, user_id: UserId, medium: str, address: str, id_server: str | None
    ) -> bool:
        """Unbinds an address at an identity server, or (None) wherever it was bound through this
        server. Returns False if none is known, or one refuses."""
        canonical = canonical_address(medium, address)
        if canonical is None:
            raise invalid_param("Not an address of a known medium")
        if id_server is not None:
            servers = [self._servers.check(id_server)]
        else:
            servers = await self._table.load_servers(user_id, medium, canonical)
        results = [await self._unbind_at(one, user_id, medium, canonical) for one in servers]
        return bool(results) and all(results)

    def check_server(self, id_server: str) -> ServerName:
        """Returns the name of an identity server that may be asked. Raises 400 M_INVALID_PARAM,
        M_SERVER_NOT_TRUSTED."""
        return self._servers.check(id_server)

    async def unbind_all(self, user_id: UserId, id_server: ServerName | None) -> bool:
        """Unbinds all addresses of a user that were bound through this server, where they were, or
        at one identity server, within `UNBIND_ALL_S`. Returns False if one refuses, or the time is
        over; what wasn't unbound is still known."""
        try:
            async with asyncio.timeout(limits.UNBIND_ALL_S):
                results = [
                    await self._unbind_at(id_server or bound_at, user_id, medium, address)
                    for medium, address, bound_at in await self._table.load_all(user_id)
                ]
        except TimeoutError:
            return False
        return all(results)

    async def _unbind_at(
        self, id_server: ServerName, user_id: UserId, medium: str, address: str
    ) -> bool:
        body = canonical_json.encode(
            {"mxid": user_id, "threepid": {"medium": medium, "address": address}}
        )
        authorization = build_authorization(
            SignedRequest("POST", f"{V2}/3pid/unbind", body),
            origin=self._server_name,
            destination=id_server,
            key=self._key,
        )
        is_done = await self._servers.unbind(id_server, authorization, body)
        if is_done:
            await self._table.delete(user_id, medium, address, id_server)
        return is_done
