"""The user directory follows the log, and is whole again after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import pytest

from federation.events import event_types
from federation.events.ids import EventId, RoomId, UserId
from homeserver import limits
from homeserver.engine.entries import Placed, StateChange, StateEntry
from homeserver.rules.rooms.user_search import DirectoryUser
from homeserver.services.rooms.user_directory.updates import (
    UserDirectoryUpdates,
    is_public,
    user_of,
)
from homeserver.storage.database import DatabaseUnavailable
from homeserver.storage.rooms.user_directory import UserDirectoryTable
from tests.homeserver.room_world import ALICE, BOB, CAROL, DAVE, HERE, World, room_world


@pytest.fixture
async def world(shared_database_url: str) -> AsyncIterator[World]:
    async with room_world(shared_database_url) as made:
        yield made


async def found(world: World, reader: UserId, term: str, **more: Any) -> list[str]:
    """Return the IDs that a search finds, once everything is applied."""
    assert await world.rooms.user_directory.work_once()
    return await found_now(world, reader, term, **more)


async def found_now(world: World, reader: UserId, term: str, **more: Any) -> list[str]:
    body = {"search_term": term, **more}
    reply = await world.call(reader, "POST", "/user_directory/search", body)
    assert reply.status == 200, reply
    return [one["user_id"] for one in reply.body["results"]]


async def shared_room(world: World, users: Iterable[UserId], **body: Any) -> RoomId:
    """Return a room of ALICE's that others joined."""
    room_id = await world.room(preset="public_chat", **body)
    for one in users:
        assert (await world.join(one, room_id)).status == 200
    return room_id


async def make_private(world: World, room_id: RoomId) -> None:
    for event_type, content in (
        ("m.room.join_rules", {"join_rule": "invite"}),
        ("m.room.history_visibility", {"history_visibility": "shared"}),
    ):
        assert (await world.put_state(ALICE, room_id, event_type, content)).status == 200


async def test_members_of_public_rooms_are_found_by_all(world: World) -> None:
    room_id = await shared_room(world, [BOB])
    assert await found(world, DAVE, "bob") == [BOB]
    await make_private(world, room_id)
    assert await found(world, DAVE, "bob") == []
    assert await found(world, ALICE, "bob") == [BOB]
    readable = {"history_visibility": "world_readable"}
    await world.put_state(ALICE, room_id, "m.room.history_visibility", readable)
    assert await found(world, DAVE, "bob") == [BOB]


async def test_members_of_a_private_room_find_each_other_while_they_are_in_it(world: World) -> None:
    room_id = await shared_room(world, [BOB, CAROL])
    await make_private(world, room_id)
    assert await found(world, BOB, "carol") == [CAROL]
    await world.in_room(CAROL, "POST", room_id, "leave")
    assert await found_now(world, BOB, "carol") == []
    assert await found(world, BOB, "carol") == []
    assert await world.database.fetchval("SELECT count(*) FROM user_directory") == 2


async def test_an_invited_user_is_not_found_yet(world: World) -> None:
    room_id = await world.room(invite=[BOB])
    assert await found(world, ALICE, "bob") == []
    await world.join(BOB, room_id)
    assert await found(world, ALICE, "bob") == [BOB]


async def test_nobody_finds_themselves(world: World) -> None:
    await shared_room(world, [BOB])
    assert await found(world, ALICE, "alice") == []
    assert await found(world, BOB, "alice") == [ALICE]


async def test_the_newest_name_counts(world: World) -> None:
    room_id = await shared_room(world, [BOB])
    assert await found(world, BOB, "alice") == [ALICE]
    content = {"membership": "join", "displayname": "Wonderland", "avatar_url": "mxc://here/a"}
    assert (await world.put_state(ALICE, room_id, "m.room.member", content, ALICE)).status == 200
    assert await found(world, BOB, "wonder") == [ALICE]
    reply = await world.call(BOB, "POST", "/user_directory/search", {"search_term": "alice"})
    assert reply.body["results"] == [
        {"user_id": ALICE, "display_name": "Wonderland", "avatar_url": "mxc://here/a"}
    ]


async def test_users_are_found_by_the_beginning_of_their_id(world: World) -> None:
    await shared_room(world, [BOB, CAROL])
    assert await found(world, DAVE, "@") == [ALICE, BOB, CAROL]
    assert await found(world, DAVE, "@bo") == [BOB]
    assert await found(world, DAVE, f"@BOB:{HERE}") == [BOB]
    assert await found(world, DAVE, f"@bob:{HERE}x") == []


async def test_results_are_limited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await shared_room(world, [BOB, CAROL])
    assert len(await found(world, DAVE, "@", limit=2)) == 2
    body = {"search_term": "@", "limit": 2}
    assert (await world.call(DAVE, "POST", "/user_directory/search", body)).body["limited"]
    body = {"search_term": "@", "limit": 3}
    assert not (await world.call(DAVE, "POST", "/user_directory/search", body)).body["limited"]
    monkeypatch.setattr(limits, "USER_SEARCH_RESULTS", 1)
    assert len(await found(world, DAVE, "@", limit=3)) == 1
    monkeypatch.setattr(limits, "USER_SEARCH_RESULTS_DEFAULT", 1)
    assert len(await found(world, DAVE, "@")) == 1
    for wrong in (0, -1):
        body = {"search_term": "@", "limit": wrong}
        assert (await world.call(DAVE, "POST", "/user_directory/search", body)).status == 400


async def test_few_candidates_are_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await shared_room(world, [BOB, CAROL])
    monkeypatch.setattr(limits, "USER_SEARCH_CANDIDATES", 2)
    assert len(await found(world, DAVE, "@")) == 2


async def test_a_long_term_finds_nobody(world: World) -> None:
    await shared_room(world, [BOB])
    term = "bob" + " " * (limits.USER_SEARCH_TERM_CHARACTERS - 3)
    assert await found(world, ALICE, term) == [BOB]
    assert await found(world, ALICE, term + " ") == []


@pytest.mark.parametrize(
    "body", [{}, {"search_term": 1}, {"search_term": "x", "limit": "1"}, {"search_term": None}]
)
async def test_a_body_of_another_shape_is_refused(world: World, body: object) -> None:
    assert (await world.call(ALICE, "POST", "/user_directory/search", body)).status == 400


def anew(world: World) -> UserDirectoryUpdates:
    """Return the follower of a process that has just started, with nothing in memory."""

    async def sleep(_seconds: float) -> None:
        raise AssertionError("nothing is to be repeated")

    return UserDirectoryUpdates(world.database, world.engine.rooms, HERE, sleep=sleep)


async def test_what_a_crash_lost_is_made_up_for_at_the_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "USER_DIRECTORY_MEMBERS_READ", 1)
    await shared_room(world, [BOB])
    assert await found(world, DAVE, "bob") == [BOB]
    await shared_room(world, [CAROL])  # never applied by the first process
    assert await found_now(world, DAVE, "carol") == []
    assert await anew(world).work_once()
    assert await found_now(world, DAVE, "carol") == [CAROL]


async def test_a_database_without_a_directory_gets_one(world: World) -> None:
    room_id = await shared_room(world, [BOB])
    await make_private(world, room_id)
    assert await anew(world).work_once()
    assert await found_now(world, ALICE, "bob") == [BOB]
    assert await found_now(world, DAVE, "bob") == []


async def test_more_changes_than_memory_holds_are_read_from_the_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "USER_DIRECTORY_CHANGES", 1)
    await shared_room(world, [BOB, CAROL])
    assert await found(world, DAVE, "@") == [ALICE, BOB, CAROL]


async def test_a_join_that_a_merge_brings_back_costs_no_reading_of_its_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile server makes merges at will, in a room of 100,000 members."""
    room_id = await shared_room(world, [BOB])
    assert await found(world, DAVE, "bob") == [BOB]
    await UserDirectoryTable(world.database).store([DirectoryUser(BOB, "stale")])
    row = (await world.engine.memberships.of(BOB))[room_id]
    change = StateChange((event_types.MEMBER, BOB), row.event_id, "join", "join")
    world.rooms.user_directory.on_commit(
        [Placed(world.committer.position, StateEntry(room_id, (change,)))]
    )

    async def never(*_given: Any, **_named: Any) -> None:
        raise AssertionError("the room is read")

    monkeypatch.setattr(UserDirectoryTable, "members", never)
    assert await found(world, DAVE, "stale") == []
    assert await found_now(world, DAVE, "bob") == [BOB]


async def test_only_joins_are_read_by_their_events(world: World) -> None:
    room_id = await shared_room(world, [BOB])
    reply = await world.send(ALICE, room_id, {"body": "x", "msgtype": "m.text"})
    table = UserDirectoryTable(world.database)
    assert await table.members_by_event([reply.body["event_id"], EventId("$unknown")]) == []


async def test_few_members_are_indexed_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on between them, however many joined since, and however long their names."""
    monkeypatch.setattr(limits, "USER_DIRECTORY_MEMBERS_READ", 2)
    sizes: list[int] = []
    store = UserDirectoryTable.store

    async def noted(self: UserDirectoryTable, users: Sequence[DirectoryUser]) -> None:
        sizes.append(len(users))
        await store(self, users)

    monkeypatch.setattr(UserDirectoryTable, "store", noted)
    await shared_room(world, [BOB, CAROL, DAVE])
    assert len(await found(world, ALICE, "@")) == 3
    assert sum(sizes) >= 4
    assert max(sizes) == 2


async def test_a_database_that_is_away_costs_no_change(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = world.rooms.user_directory
    assert await updates.work_once()
    room_id = await shared_room(world, [BOB])
    with monkeypatch.context() as patch:

        async def away(*_given: Any, **_named: Any) -> None:
            raise DatabaseUnavailable("gone")

        patch.setattr(UserDirectoryTable, "set_room", away)
        assert not await updates.work_once()
    await make_private(world, room_id)
    assert await found(world, ALICE, "bob") == [BOB]
    assert await found(world, DAVE, "bob") == []


async def test_it_tries_again_after_a_pause(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def away(*_given: Any, **_named: Any) -> None:
        if len(pauses) < 2:
            raise DatabaseUnavailable("gone")
        running.cancel()

    updates = UserDirectoryUpdates(world.database, world.engine.rooms, HERE, sleep=sleep)
    monkeypatch.setattr(UserDirectoryTable, "store_position", away)
    running = asyncio.ensure_future(updates.run())
    await asyncio.wait([running], timeout=60)
    assert running.cancelled()
    assert pauses == [limits.USER_DIRECTORY_RETRY_S] * 2


async def test_the_position_is_stored_now_and_then(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = world.rooms.user_directory
    room_id = await shared_room(world, [BOB])
    assert await updates.work_once()
    updates._wake.clear()
    monkeypatch.setattr(limits, "USER_DIRECTORY_POSITIONS", 3)
    for number in range(3):
        assert not updates._wake.is_set(), number
        await world.send(ALICE, room_id, {"body": "x", "msgtype": "m.text"}, f"t{number}")
    assert updates._wake.is_set()
    assert await updates.work_once()
    stored = await world.database.fetchval("SELECT position FROM user_directory_position")
    assert stored == world.committer.position


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ({}, DirectoryUser(BOB)),
        ({"displayname": "Bob", "avatar_url": "mxc://a/b"}, DirectoryUser(BOB, "Bob", "mxc://a/b")),
        ({"displayname": None, "avatar_url": None}, DirectoryUser(BOB)),
        ({"displayname": ["Bob"], "avatar_url": {"a": 1}}, DirectoryUser(BOB)),
        (
            {"displayname": "B\0ob\ud800", "avatar_url": "mxc://a\0/b"},
            DirectoryUser(BOB, "Bob", "mxc://a/b"),
        ),
        ({"avatar_url": "https://evil/x.png"}, DirectoryUser(BOB)),
        ({"avatar_url": "mxc://" + "a" * limits.IDENTIFIER_BYTES}, DirectoryUser(BOB)),
        (
            {"displayname": "x" * (limits.USER_SEARCH_NAME_CHARACTERS + 1)},
            DirectoryUser(BOB, "x" * limits.USER_SEARCH_NAME_CHARACTERS),
        ),
    ],
)
def test_what_a_member_event_shows(content: dict[str, Any], shown: DirectoryUser) -> None:
    assert user_of(BOB, content) == shown


@pytest.mark.parametrize(
    ("rule", "visibility", "public"),
    [
        ({"join_rule": "public"}, {}, True),
        ({"join_rule": "invite"}, {"history_visibility": "world_readable"}, True),
        ({"join_rule": "invite"}, {"history_visibility": "shared"}, False),
        ({"join_rule": "knock"}, {}, False),
        ({"join_rule": ["public"]}, {"history_visibility": 1}, False),
        ({}, {}, False),
    ],
)
def test_which_rooms_are_public(rule: Any, visibility: Any, public: bool) -> None:
    contents = {event_types.JOIN_RULES_KEY: rule, event_types.HISTORY_VISIBILITY_KEY: visibility}
    assert is_public(contents) == public
    assert not is_public({})
