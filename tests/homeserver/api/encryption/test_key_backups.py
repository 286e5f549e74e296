"""Backups of room keys over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from homeserver import limits
from homeserver.api.encryption.key_backups import KeyBackupsApi
from homeserver.services.encryption.key_backups import KeyBackups
from homeserver.storage.database import Database
from tests.homeserver.api.account_server import AccountServer, Reply, account_server

ROOM = "!room:hs1"
ALGORITHM = "m.megolm_backup.v1.curve25519-aes-sha2"
SETTINGS: dict[str, Any] = {"algorithm": ALGORITHM, "auth_data": {"public_key": "abc"}}


def key(index: int = 0, *, verified: bool = True, data: str = "x") -> dict[str, Any]:
    return {
        "first_message_index": index,
        "forwarded_count": 0,
        "is_verified": verified,
        "session_data": {"ciphertext": data},
    }


class Owner:
    """A user with backups."""

    def __init__(self, server: AccountServer, token: str) -> None:
        self.server, self.token = server, token

    async def call(self, method: str, path: str, body: object = None) -> Reply:
        return await self.server.call(method, "/room_keys" + path, body, token=self.token)

    async def create(self) -> str:
        version: str = (await self.call("POST", "/version", SETTINGS)).body["version"]
        return version

    async def store(self, version: str, sessions: dict[str, Any], room: str = ROOM) -> Reply:
        path = f"/keys/{quote(room)}?version={version}"
        return await self.call("PUT", path, {"sessions": sessions})


@pytest.fixture
async def server(accounts_url: str) -> AsyncIterator[AccountServer]:
    database = await Database.open(accounts_url, connections=3)
    api = KeyBackupsApi(KeyBackups(database))
    async with account_server(accounts_url, routes=api.routes) as running:
        await database.execute("DELETE FROM key_backup_keys")
        await database.execute("DELETE FROM key_backups")
        yield running
    await database.close()


@pytest.fixture
async def alice(server: AccountServer) -> Owner:
    return Owner(server, (await server.register("alice"))["access_token"])


async def test_a_backup_from_its_creation_to_its_end(alice: Owner) -> None:
    assert (await alice.call("GET", "/version")).body["errcode"] == "M_NOT_FOUND"
    version = await alice.create()
    shown = await alice.call("GET", "/version")
    assert shown.body == {**SETTINGS, "version": version, "count": 0, "etag": "0"}
    stored = await alice.store(version, {"s1": key(), "s2": key()})
    assert stored.body == {"count": 2, "etag": "1"}
    one = await alice.call("GET", f"/keys/{ROOM}/s1?version={version}")
    assert one.body == key()
    gone = await alice.call("DELETE", f"/keys/{ROOM}/s1?version={version}")
    assert gone.body == {"count": 1, "etag": "2"}
    assert (await alice.call("GET", f"/keys/{ROOM}/s1?version={version}")).status == 404
    assert (await alice.call("DELETE", f"/version/{version}")).status == 200
    assert (await alice.call("DELETE", f"/version/{version}")).status == 200
    assert (await alice.call("GET", "/version")).status == 404
    assert (await alice.call("GET", f"/keys?version={version}")).status == 404


async def test_all_three_forms_store_and_read_the_same(alice: Owner) -> None:
    version = await alice.create()
    rooms = {ROOM: {"sessions": {"a": key(1)}}, "!other:hs2": {"sessions": {"b": key(2)}}}
    assert (await alice.call("PUT", f"/keys?version={version}", {"rooms": rooms})).status == 200
    await alice.store(version, {"c": key(3)})
    await alice.call("PUT", f"/keys/{ROOM}/d%2F?version={version}", key(4))
    rooms[ROOM]["sessions"] |= {"c": key(3), "d/": key(4)}
    assert (await alice.call("GET", f"/keys?version={version}")).body == {"rooms": rooms}
    assert (await alice.call("GET", f"/keys/{ROOM}?version={version}")).body == rooms[ROOM]


async def test_a_long_backup_comes_whole(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEY_BACKUP_KEYS_READ_AT_ONCE", 3)
    version = await alice.create()
    rooms: dict[str, Any] = {
        f'!"{room}\\:hs1': {"sessions": {f"s{n}": key(n) for n in range(room)}}
        for room in range(1, 6)
    }
    await alice.call("PUT", f"/keys?version={version}", {"rooms": rooms})
    assert (await alice.call("GET", f"/keys?version={version}")).body == {"rooms": rooms}
    for room, content in rooms.items():
        assert (await alice.call("GET", f"/keys/{quote(room)}?version={version}")).body == content


async def test_an_empty_backup_is_empty_objects(alice: Owner) -> None:
    version = await alice.create()
    assert (await alice.call("GET", f"/keys?version={version}")).body == {"rooms": {}}
    assert (await alice.call("GET", f"/keys/{ROOM}?version={version}")).body == {"sessions": {}}
    assert (await alice.call("DELETE", f"/keys?version={version}")).body["count"] == 0


async def test_a_device_with_an_old_version_learns_of_the_new_one(alice: Owner) -> None:
    """A device that missed a reset must not go on encrypting for the key that was given up."""
    old = await alice.create()
    await alice.store(old, {"s": key()})
    new = await alice.create()
    refused = await alice.store(old, {"s": key()})
    assert (refused.status, refused.body["errcode"]) == (403, "M_WRONG_ROOM_KEYS_VERSION")
    assert refused.body["current_version"] == new
    assert (await alice.call("GET", f"/keys/{ROOM}?version={old}")).body["sessions"] == {"s": key()}
    await alice.call("DELETE", f"/version/{new}")
    assert (await alice.store(old, {"t": key()})).body["count"] == 2
    await alice.call("DELETE", f"/version/{old}")
    assert (await alice.store(old, {"t": key()})).body["errcode"] == "M_NOT_FOUND"


async def test_the_better_key_stays(alice: Owner) -> None:
    version = await alice.create()
    await alice.store(version, {"s": key(5, verified=False, data="unverified")})
    await alice.store(version, {"s": key(9, data="verified")})
    await alice.store(version, {"s": key(0, verified=False, data="unverified again")})
    shown = await alice.call("GET", f"/keys/{ROOM}/s?version={version}")
    assert shown.body["session_data"] == {"ciphertext": "verified"}


async def test_settings_are_changed_but_not_the_algorithm(alice: Owner) -> None:
    version = await alice.create()
    signed = {**SETTINGS, "auth_data": {"public_key": "abc", "signatures": {"@alice:hs1": {}}}}
    path = f"/version/{version}"
    assert (await alice.call("PUT", path, signed)).body == {}
    assert (await alice.call("PUT", path, {**signed, "version": version})).status == 200
    assert (await alice.call("GET", path)).body["auth_data"] == signed["auth_data"]
    for wrong in ({**signed, "algorithm": "m.other"}, {**signed, "version": "9"}):
        refused = await alice.call("PUT", path, wrong)
        assert (refused.status, refused.body["errcode"]) == (400, "M_INVALID_PARAM")
    assert (await alice.call("PUT", "/version/9", signed)).status == 404


async def test_backups_of_others_are_not_there(alice: Owner) -> None:
    version = await alice.create()
    await alice.store(version, {"s": key()})
    bob = Owner(alice.server, (await alice.server.register("bob"))["access_token"])
    for method, path in (
        ("GET", "/version"),
        ("GET", f"/version/{version}"),
        ("DELETE", f"/version/{version}"),
        ("GET", f"/keys?version={version}"),
        ("GET", f"/keys/{ROOM}?version={version}"),
        ("GET", f"/keys/{ROOM}/s?version={version}"),
        ("DELETE", f"/keys?version={version}"),
    ):
        assert (await bob.call(method, path)).status == 404, (method, path)
    assert (await alice.call("GET", f"/version/{version}")).body["count"] == 1


@pytest.mark.parametrize("version", ["", "x", "-1", "0", "1" * 30, "%00", "1%20"])
async def test_an_impossible_version_is_unknown(alice: Owner, version: str) -> None:
    await alice.create()
    refused = await alice.call("GET", f"/keys?version={version}")
    assert refused.status == (400 if version == "%00" else 404)
    assert (await alice.store(version, {"s": key()})).status in (400, 403)


async def test_the_version_is_required(alice: Owner) -> None:
    for method in ("GET", "PUT", "DELETE"):
        refused = await alice.call(method, "/keys", {"rooms": {}})
        assert refused.body["errcode"] == "M_MISSING_PARAM"


async def test_numbers_have_bounds(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEY_BACKUP_KEYS", 2)
    monkeypatch.setattr(limits, "KEY_BACKUP_VERSIONS", 1)
    version = await alice.create()
    assert (await alice.store(version, {"a": key(), "b": key()})).status == 200
    assert (await alice.store(version, {"a": key(), "c": key()})).status == 400
    assert (await alice.call("POST", "/version", SETTINGS)).status == 400


async def test_guests_have_no_backups(server: AccountServer) -> None:
    assert (await server.call("GET", "/room_keys/version")).status == 401


async def test_the_account_takes_its_backups_along(alice: Owner) -> None:
    await alice.store(await alice.create(), {"s": key()})
    identifier = {"type": "m.id.user", "user": "alice"}
    auth = {"type": "m.login.password", "identifier": identifier, "password": "secret"}
    ended = await alice.server.call(
        "POST", "/account/deactivate", {"auth": auth}, token=alice.token
    )
    assert ended.status == 200
    for table in ("key_backups", "key_backup_keys"):
        assert await alice.server.database.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_a_stream_that_fails_in_its_middle_breaks_off(
    alice: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client must not take the first half of its keys for all of them."""
    monkeypatch.setattr(limits, "KEY_BACKUP_KEYS_READ_AT_ONCE", 1)
    version = await alice.create()
    await alice.store(version, {"a": key(), "b": key()})
    pages = KeyBackups._pages

    async def failing(self: KeyBackups, *given: Any) -> AsyncIterator[Any]:
        async for page in pages(self, *given):
            yield page
            raise RuntimeError("the database is on fire")

    monkeypatch.setattr(KeyBackups, "_pages", failing)
    url = f"{alice.server.url}/_matrix/client/v3/room_keys/keys?version={version}"
    headers = {"Authorization": f"Bearer {alice.token}"}
    async with alice.server.session.get(url, headers=headers) as answer:
        assert answer.status == 200
        with pytest.raises(Exception, match=r"payload|disconnected|closed"):
            await answer.read()
    assert (await alice.call("GET", "/version")).status == 200
