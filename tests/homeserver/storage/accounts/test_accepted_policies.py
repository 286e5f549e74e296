"""Which versions of policies users accepted."""

from __future__ import annotations

from federation.events.ids import UserId
from homeserver.storage.accounts import accepted_policies
from homeserver.storage.accounts.accepted_policies import AcceptedPolicyTable
from homeserver.storage.database import Database

ANNA = UserId("@anna:hs1")


async def test_each_version_is_noted_once(database: Database) -> None:
    async with database.transaction() as connection:
        await accepted_policies.add(connection, ANNA, [("terms", "1"), ("privacy", "1")], 5)
        await accepted_policies.add(connection, ANNA, [("terms", "1"), ("terms", "2")], 9)
        await accepted_policies.add(connection, UserId("@ben:hs1"), [], 9)
    table = AcceptedPolicyTable(database)
    assert await table.load(ANNA) == [("privacy", "1", 5), ("terms", "1", 5), ("terms", "2", 9)]
    assert await table.load(UserId("@ben:hs1")) == []
