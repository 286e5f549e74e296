"""Who takes invites."""

import orjson
import pytest

from federation.events.ids import UserId
from homeserver.engine.entries import AccountDataEntry
from homeserver.rules.account_data.invite_permission import INVITE_PERMISSION
from homeserver.services.rooms.invite_permission import InvitePermission
from homeserver.storage.account_data import account_data
from homeserver.storage.database import Database
from tests.homeserver.conftest import EMPTY_TABLES

ALICE, BOB = UserId("@alice:here.example"), UserId("@bob:here.example")


@pytest.mark.parametrize(
    ("content", "is_blocked"),
    [
        ({"default_action": "block"}, True),
        ({"default_action": "allow"}, False),
        ({"default_action": ["block"]}, False),
        ({}, False),
    ],
)
async def test_only_the_action_block_blocks_invites(
    shared_database_url: str, content: dict[str, object], is_blocked: bool
) -> None:
    database = await Database.open(shared_database_url, connections=1)
    async with database.connection() as connection:
        await connection.execute(EMPTY_TABLES)
        entry = AccountDataEntry(ALICE, "", INVITE_PERMISSION, orjson.dumps(content))
        await account_data.append(connection, [(1, entry)])
    permission = InvitePermission(database)
    assert await permission.is_blocked(ALICE) is is_blocked
    assert await permission.is_blocked(BOB) is False
    await database.close()
