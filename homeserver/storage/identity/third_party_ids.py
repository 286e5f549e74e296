"""The tables `third_party_ids` and `third_party_bindings`. Addresses are in canonical form."""

from __future__ import annotations

import msgspec

from federation.events.ids import UserId
from homeserver.storage.database import Connection, Database


class ThirdPartyId(msgspec.Struct, frozen=True):
    """An identifier of an account, with the times at which it was validated and added."""

    medium: str
    address: str
    validated_ms: int
    added_ms: int


async def add(connection: Connection, user_id: UserId, new: ThirdPartyId) -> bool:
    """Gives an account an identifier. Returns False if an account has it, this one or another."""
    added = await connection.fetchval(
        "INSERT INTO third_party_ids (medium, address, user_id, validated_ms, added_ms)"
        " VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING true",
        new.medium,
        new.address,
        user_id,
        new.validated_ms,
        new.added_ms,
    )
    return bool(added)


async def count(connection: Connection, user_id: UserId) -> int:
    """Returns how many identifiers an account has."""
    return int(
        await connection.fetchval(
            "SELECT count(*) FROM third_party_ids WHERE user_id = $1", user_id
        )
    )


async def find_owner(connection: Connection, medium: str, address: str) -> UserId | None:
    """Returns the user whose account has an identifier."""
    found = await connection.fetchval(
        "SELECT user_id FROM third_party_ids WHERE medium = $1 AND address = $2", medium, address
    )
    return None if found is None else UserId(found)


async def delete_all(connection: Connection, user_id: UserId) -> None:
    """Deletes all identifiers of an account."""
    await connection.execute("DELETE FROM third_party_ids WHERE user_id = $1", user_id)


class ThirdPartyIdTable:
    """The identifiers of accounts, and what was bound at identity servers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, user_id: UserId) -> list[ThirdPartyId]:
        """Returns an account's identifiers, in the order in which they were added."""
        rows = await self._database.fetch(
            "SELECT medium, address, validated_ms, added_ms FROM third_party_ids"
            " WHERE user_id = $1 ORDER BY added_ms, medium, address",
            user_id,
        )
        return [ThirdPartyId(*row) for row in rows]

    async def find_owner(self, medium: str, address: str) -> UserId | None:
        """See the function `find_owner`."""
        async with self._database.connection() as connection:
            return await find_owner(connection, medium, address)

    async def delete(self, user_id: UserId, medium: str, address: str) -> bool:
        """Deletes an account's identifier; False if it has none such."""
        found = await self._database.fetchval(
            "DELETE FROM third_party_ids WHERE user_id = $1 AND medium = $2 AND address = $3"
            " RETURNING true",
            user_id,
            medium,
            address,
        )
        return bool(found)
