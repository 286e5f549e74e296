"""Third-party identifiers of accounts: added once confirmed, listed, deleted.

Spec: client-server API, "Adding Account Administrative Contact Information".
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.errors import invalid_param
from homeserver.rules.identity.third_party_ids import EMAIL, canonical_address
from homeserver.services.identity.validations import EmailValidations, Purpose
from homeserver.storage.database import Connection, Database
from homeserver.storage.identity import third_party_ids, validations
from homeserver.storage.identity.third_party_ids import ThirdPartyId, ThirdPartyIdTable


class ThirdPartyIds:
    """The identifiers of this server's accounts."""

    def __init__(self, database: Database, proofs: EmailValidations, clock: Clock) -> None:
        self._database, self._proofs, self._clock = database, proofs, clock
        self._table = ThirdPartyIdTable(database)

    async def load(self, user_id: UserId) -> Sequence[ThirdPartyId]:
        """Returns an account's identifiers."""
        return await self._table.load(user_id)

    async def check_proof(self, credentials: JsonObject) -> str:
        """Returns the session of a confirmed address, to be added. Raises 403
        M_THREEPID_AUTH_FAILED."""
        sid = await self._proofs.find_proof(Purpose.ADDITION, credentials)
        if sid is None:
            raise auth_failed()
        return sid

    async def add(self, user_id: UserId, sid: str) -> None:
        """Adds a confirmed address to an account. Raises 403 M_THREEPID_AUTH_FAILED, 400
        M_THREEPID_IN_USE, 400 M_INVALID_PARAM for an account with too many."""
        async with self._database.transaction() as connection:
            await add_confirmed(
                connection, user_id, sid, Purpose.ADDITION, now_ms=self._clock.now_ms()
            )

    async def delete(self, user_id: UserId, medium: str, address: str) -> None:
        """Deletes an identifier, if the account has it. Raises 400 M_INVALID_PARAM."""
        canonical = canonical_address(medium, address)
        if canonical is None:
            raise invalid_param("Not an address of a known medium")
        await self._table.delete(user_id, medium, canonical)


async def add_confirmed(
    connection: Connection, user_id: UserId, sid: str, purpose: Purpose, *, now_ms: int
) -> None:
    """Uses a proof up and gives its address to an account, within a transaction. Raises as
    `ThirdPartyIds.add`."""
    taken = await validations.take(connection, sid, purpose.value, now_ms)
    if taken is None:
        raise auth_failed()
    if await third_party_ids.count(connection, user_id) >= limits.THIRD_PARTY_IDS_PER_USER:
        raise invalid_param("The account has too many third-party identifiers")
    address, validated_ms = taken
    new = ThirdPartyId(EMAIL, address, validated_ms, now_ms)
    if not await third_party_ids.add(connection, user_id, new):
        raise MatrixError(400, "M_THREEPID_IN_USE", "This address belongs to an account already")


def auth_failed() -> MatrixError:
    """403 M_THREEPID_AUTH_FAILED."""
    return MatrixError(403, "M_THREEPID_AUTH_FAILED", "The address wasn't confirmed")
