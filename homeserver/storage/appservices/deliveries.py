"""How far application services have been sent the log. Owns `appservices`."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from homeserver.storage.database import Database


class DeliveryRow(msgspec.Struct, frozen=True):
    """The position up to which all of the log is in transactions, and the newest transaction, if
    the service doesn't have it yet (`body` None: it has)."""

    position: int
    transaction_id: str | None
    body: bytes | None


class DeliveryTable:
    """One row for each application service."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, service_id: str, *, start: int) -> DeliveryRow:
        """Returns the row of a service; makes one at the position `start` for a new service."""
        await self._database.execute(
            "INSERT INTO appservices (appservice_id, position) VALUES ($1, $2)"
            " ON CONFLICT DO NOTHING",
            service_id,
            start,
        )
        row = await self._database.fetchrow(
            "SELECT position, transaction_id, body FROM appservices WHERE appservice_id = $1",
            service_id,
        )
        assert row is not None, "it was made, unless it was there"
        return DeliveryRow(*row)

    async def put(
        self, service_id: str, position: int, *, transaction_id: str, body: bytes
    ) -> None:
        """Stores a transaction with the log up to a position."""
        await self._database.execute(
            "UPDATE appservices SET position = $2, transaction_id = $3, body = $4"
            " WHERE appservice_id = $1",
            service_id,
            position,
            transaction_id,
            body,
        )

    async def taken(self, service_id: str) -> None:
        """Deletes the transaction: the service has it."""
        await self._database.execute(
            "UPDATE appservices SET transaction_id = NULL, body = NULL WHERE appservice_id = $1",
            service_id,
        )

    async def move(self, service_id: str, position: int) -> None:
        """Stores that nothing up to a position concerns the service."""
        await self._database.execute(
            "UPDATE appservices SET position = $2 WHERE appservice_id = $1", service_id, position
        )

    async def keep(self, service_ids: Collection[str]) -> None:
        """Deletes the rows of all other services, which aren't registered any more."""
        await self._database.execute(
            "DELETE FROM appservices WHERE NOT appservice_id = ANY($1::text[])", list(service_ids)
        )
