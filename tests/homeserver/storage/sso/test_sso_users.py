"""Users as providers of single sign-on know them."""

from __future__ import annotations

from federation.events.ids import UserId
from homeserver.storage.database import Database
from homeserver.storage.sso import sso_users
from homeserver.storage.sso.sso_users import SsoUserTable

ALICE, BOB = UserId("@alice:hs1"), UserId("@bob:hs1")


async def test_a_subject_is_one_user_of_its_provider(database: Database) -> None:
    table = SsoUserTable(database)
    async with database.transaction() as connection:
        assert await sso_users.add(connection, "oidc", "1", ALICE)
        assert not await sso_users.add(connection, "oidc", "1", BOB), "the first one stays"
        assert await sso_users.add(connection, "cas", "1", BOB)
    assert (await table.find("oidc", "1"), await table.find("cas", "1")) == (ALICE, BOB)
    assert await table.find("oidc", "2") is None
    assert await table.is_known(ALICE)
    assert not await table.is_known(UserId("@carol:hs1"))


async def test_a_user_is_forgotten_with_all_providers(database: Database) -> None:
    table = SsoUserTable(database)
    async with database.transaction() as connection:
        for provider, user_id in (("oidc", ALICE), ("cas", ALICE), ("other", BOB)):
            assert await sso_users.add(connection, provider, "1", user_id)
        await sso_users.delete_all(connection, ALICE)
    assert not await table.is_known(ALICE)
    assert await table.find("other", "1") == BOB
