"""Accounts for tests of the tables that belong to accounts."""

from federation.events.ids import DeviceId, UserId
from homeserver.storage.accounts import accounts
from homeserver.storage.accounts.accounts import NewAccount
from homeserver.storage.database import Database

ALICE, BOB, CAROL = (UserId(f"@{name}:hs1") for name in ("alice", "bob", "carol"))
PHONE, LAPTOP, TABLET = DeviceId("PHONE"), DeviceId("LAPTOP"), DeviceId("TABLET")


def new_account(
    user_id: UserId,
    *,
    device_id: DeviceId | None = PHONE,
    password_hash: str | None = "hash",
    is_guest: bool = False,
    token_hash: bytes = b"",
) -> NewAccount:
    """Return an account to create; its token's hash is the user's ID, if none is given."""
    return NewAccount(
        user_id=user_id,
        password_hash=password_hash,
        is_guest=is_guest,
        display_name=b'"name"',
        created_ms=5,
        device_id=device_id,
        device_name="a phone",
        token_hash=token_hash or user_id.encode(),
        address="::1",
    )


async def create(database: Database, new: NewAccount) -> bool:
    """Create an account in a transaction of its own; return whether it was created."""
    async with database.transaction() as connection:
        return await accounts.create(connection, new)


async def create_accounts(database: Database, *user_ids: UserId) -> None:
    """Create ordinary accounts, each with one device and one token."""
    for user_id in user_ids:
        assert await create(database, new_account(user_id))


async def deactivate(database: Database, user_id: UserId, *, erase: bool = False) -> bool:
    """Deactivate an account in a transaction of its own, without an access token."""
    async with database.transaction() as connection:
        return await accounts.deactivate(connection, user_id, erase=erase)
