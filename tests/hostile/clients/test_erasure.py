"""Erasure: what a server still knows of a user who asked to be forgotten.

Every table is searched for the user's ID and for words that only they used. What may remain has its
reason here; a new table that keeps more fails the test.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from urllib.parse import quote

import pytest

from tests.faults.servers import until
from tests.hostile.clients.conftest import Scene
from tests.hostile.clients.running_server import Server, User

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORGOTTEN_WITHIN_S = 60
WORD = "xylographically"
"""A word that is in everything that the user wrote."""

EVENTS = (
    "events stay as they are: those who saw them still do (spec), and a room's state needs them"
)
REMAINS: Mapping[str, str] = {
    "accounts": "the name is never given out again",
    "events": EVENTS,
    "memberships": "who was when in which room decides what others may see",
    "departures": "goes once the user is in no room any more",
    "state_changes": EVENTS,
    "device_list_changes": "other users' clients are told that the devices are gone",
    "push_events": "derived from events alone, and made again from them",
    "reports": "what was reported about others; goes 90 days after it was resolved",
}
AUTH = {
    "type": "m.login.password",
    "identifier": {"type": "m.id.user", "user": "eve"},
    "password": "secret",
}


async def mentions(server: Server, word: str) -> set[str]:
    """The tables that have a row with a word in any column."""
    rows = await server.database.fetch(
        "SELECT table_name, column_name, data_type FROM information_schema.columns"
        " WHERE table_schema = current_schema() AND data_type IN ('text', 'bytea', 'ARRAY')"
    )
    found = set()
    for table, column, kind in rows:
        text = f"encode({column}, 'escape')" if kind == "bytea" else f"{column}::text"
        query = f'SELECT EXISTS (SELECT FROM "{table}" WHERE {text} LIKE $1)'
        if await server.database.fetchval(query, f"%{word}%"):
            found.add(str(table))
    return found


async def live(scene: Scene, eve: User) -> str:
    """Leaves a trace in everything that a client can write."""
    server, room_id, me = scene.server, scene.room_id, eve.user_id
    await server.ok("POST", f"/join/{room_id}", {}, by=eve)
    event_id = await server.send(eve, room_id, "t", f"{WORD} said")
    written = {"a": WORD}
    for method, path, body in (
        ("PUT", f"/profile/{me}/displayname", {"displayname": WORD}),
        ("PUT", f"/user/{me}/account_data/org.example", written),
        ("PUT", f"/user/{me}/rooms/{room_id}/account_data/org.example", written),
        ("PUT", f"/user/{me}/rooms/{room_id}/tags/u.{WORD}", {}),
        ("POST", f"/user/{me}/filter", {"room": {"rooms": [f"!{WORD}:x"]}}),
        ("PUT", f"/devices/{eve.device_id}", {"display_name": WORD}),
        ("POST", f"/rooms/{room_id}/receipt/m.read/{event_id}", {}),
        ("POST", f"/rooms/{room_id}/read_markers", {"m.fully_read": event_id}),
        ("PUT", f"/rooms/{room_id}/typing/{me}", {"typing": True, "timeout": 1000}),
        ("PUT", "/sendToDevice/org.example/1", {"messages": {me: {"*": written}}}),
        ("POST", f"/user/{me}/openid/request_token", {}),
        ("POST", "/room_keys/version", {
            "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
            "auth_data": {"public_key": WORD},
        }),
        ("POST", "/users/@x:y.example/report", {"reason": "rude"}),
    ):  # fmt: skip
        await server.ok(method, path, body, by=eve)
    for row in (
        "INSERT INTO sso_users (provider, subject, user_id) VALUES ('p', $2, $1)",
        "INSERT INTO accepted_policies VALUES ($1, $2, '1', 1)",
    ):
        await server.database.execute(row, me, WORD)
    again = {"type": "m.login.password", "identifier": AUTH["identifier"], "password": "secret"}
    await server.ok("POST", "/login", {**again, "refresh_token": True})
    return event_id


async def test_an_erased_user_leaves_events_and_their_name_alone(scene: Scene) -> None:
    server = scene.server
    eve = await server.register("eve")
    event_id = await live(scene, eve)
    before = await mentions(server, eve.user_id)
    assert {"profiles", "account_data", "receipts", "filters", "access_tokens"} <= before
    assert {"to_device_messages", "key_backups", "refresh_tokens"} <= before
    body = {"auth": AUTH, "erase": True}
    await server.ok("POST", "/account/deactivate", body, by=eve)

    left: set[str] = set()

    async def is_over() -> bool:
        """What follows the log does so in its own time."""
        left.clear()
        left.update(await mentions(server, eve.user_id) - REMAINS.keys())
        return not left and not await server.database.fetchval(
            "SELECT EXISTS (SELECT FROM memberships WHERE user_id = $1"
            " AND membership IN ('join', 'invite', 'knock'))",
            eve.user_id,
        )

    with contextlib.suppress(AssertionError):
        await until(is_over, "the user has left all rooms", within_s=FORGOTTEN_WITHIN_S)
    assert not left, "remains without a reason in the table"
    words = await mentions(server, WORD)
    assert words <= {name for name, reason in REMAINS.items() if reason is EVENTS}, words
    path = f"/rooms/{quote(scene.room_id)}/event/{quote(event_id)}"
    assert WORD in str(await server.ok("GET", path, by=scene.alice)), "who saw it still does"
    late = await server.register("late")
    await server.ok("POST", f"/join/{scene.room_id}", {}, by=late)
    seen = await server.ok("GET", path, by=late)
    assert seen["content"] == {}, "who joins later reads it redacted"
