"""The table `third_party_bindings`: where addresses were bound through this server."""

from __future__ import annotations

from federation.events.ids import ServerName, UserId
from homeserver.storage.database import Database


class ThirdPartyBindingTable:
    """What was bound. Addresses are in canonical form."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(self, user_id: UserId) -> int:
        """Returns how many bindings of a user are known."""
        return int(
            await self._database.fetchval(
                "SELECT count(*) FROM third_party_bindings WHERE user_id = $1", user_id
            )
        )

    async def add(self, user_id: UserId, medium: str, address: str, id_server: ServerName) -> None:
        """Notes a binding."""
        await self._database.execute(
            "INSERT INTO third_party_bindings (user_id, medium, address, id_server)"
            " VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            user_id,
            medium,
            address,
            id_server,
        )

    async def load_servers(self, user_id: UserId, medium: str, address: str) -> list[ServerName]:
        """Returns the identity servers at which a user's address was bound, in order."""
        rows = await self._database.fetch(
            "SELECT id_server FROM third_party_bindings WHERE user_id = $1 AND medium = $2"
            " AND address = $3 ORDER BY id_server",
            user_id,
            medium,
            address,
        )
        return [ServerName(row[0]) for row in rows]

    async def load_all(self, user_id: UserId) -> list[tuple[str, str, ServerName]]:
        """Returns a user's bindings: medium, address and identity server, in order."""
        rows = await self._database.fetch(
            "SELECT medium, address, id_server FROM third_party_bindings WHERE user_id = $1"
            " ORDER BY medium, address, id_server",
            user_id,
        )
        return [(row[0], row[1], ServerName(row[2])) for row in rows]

    async def delete(
        self, user_id: UserId, medium: str, address: str, id_server: ServerName
    ) -> None:
        """Forgets a binding."""
        await self._database.execute(
            "DELETE FROM third_party_bindings WHERE user_id = $1 AND medium = $2"
            " AND address = $3 AND id_server = $4",
            user_id,
            medium,
            address,
            id_server,
        )
