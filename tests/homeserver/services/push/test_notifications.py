"""The list of a user's notifications, from a real log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from federation.events.ids import RoomId, UserId
from homeserver import limits
from homeserver.services.push.notifications import Notifications
from tests.homeserver.room_world import ALICE, BOB, CAROL, World, room_world
from tests.homeserver.services.push.delivery.test_queue import Pushing, pushing_in

MENTION = {"m.mentions": {"user_ids": [BOB]}}
SOUND = {"set_tweak": "sound", "value": "default"}


@pytest.fixture
async def pushing(shared_database_url: str) -> AsyncIterator[Pushing]:
    async with room_world(shared_database_url) as world, pushing_in(world) as made:
        yield made


async def listed(world: World, query: str = "", user: UserId = BOB) -> dict[str, Any]:
    reply = await world.call(user, "GET", "/notifications", query=query)
    assert reply.status == 200, reply
    body: dict[str, Any] = reply.body
    return body


async def ids(world: World, query: str = "", user: UserId = BOB) -> list[str]:
    return [one["event"]["event_id"] for one in (await listed(world, query, user))["notifications"]]


async def test_notifications_of_all_rooms_come_newest_first(pushing: Pushing) -> None:
    world = pushing.world
    assert await listed(world) == {"notifications": []}
    rooms = [await pushing.room(BOB) for _ in range(2)]
    sent = [await pushing.say(rooms[n % 2], str(n)) for n in range(5)]
    assert await ids(world) == sent[::-1]
    assert sent[0] not in await ids(world, user=CAROL)
    assert sent[0] not in await ids(world, user=ALICE)


async def test_a_notification_has_its_event_actions_and_whether_it_is_read(
    pushing: Pushing,
) -> None:
    world, room_id = pushing.world, await pushing.room(BOB, CAROL)
    first = await pushing.say(room_id, "hello")
    await pushing.say(room_id, "bob", **MENTION)
    await pushing.read(BOB, room_id, first)
    newest, oldest = (await listed(world))["notifications"]
    assert (newest["read"], oldest["read"]) == (False, True)
    assert newest["actions"] == ["notify", SOUND, {"set_tweak": "highlight"}]
    assert oldest["actions"] == ["notify"]
    assert newest["room_id"] == oldest["room_id"] == room_id
    assert newest["event"]["content"]["body"] == "bob"
    assert newest["ts"] == newest["event"]["origin_server_ts"]


async def test_only_highlights(pushing: Pushing) -> None:
    room_id = await pushing.room(BOB, CAROL)
    await pushing.say(room_id, "hello")
    mention = await pushing.say(room_id, "bob", **MENTION)
    assert await ids(pushing.world, "only=highlight") == [mention]


async def test_pages_follow_each_other(pushing: Pushing, monkeypatch: pytest.MonkeyPatch) -> None:
    world = pushing.world
    rooms = [await pushing.room(BOB) for _ in range(3)]
    sent = [await pushing.say(rooms[n % 3], str(n)) for n in range(5)]
    found, query = [], "limit=2"
    for _ in range(3):
        page = await listed(world, query)
        found.append([one["event"]["event_id"] for one in page["notifications"]])
        query = f"limit=2&from={page.get('next_token')}"
    assert found == [sent[:-3:-1], sent[2:0:-1], sent[:1]]
    assert "next_token" not in page
    monkeypatch.setattr(limits, "NOTIFICATIONS_PER_PAGE", 3)
    assert await ids(world, "limit=9") == sent[:1:-1]
    monkeypatch.setattr(limits, "NOTIFICATIONS_PER_PAGE_DEFAULT", 1)
    assert await ids(world) == sent[-1:]


async def test_few_rooms_are_looked_at(pushing: Pushing, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = [await pushing.room(BOB) for _ in range(3)]
    sent = [await pushing.say(room_id, room_id) for room_id in rooms]
    monkeypatch.setattr(limits, "NOTIFICATION_ROOMS", 2)
    assert await ids(pushing.world) == [sent[2], sent[1]]


@pytest.mark.parametrize(
    "query", ["from=x", "from=-1", "from=", "limit=0", "limit=x", "only=lowlight"]
)
async def test_a_wrong_query_is_refused(pushing: Pushing, query: str) -> None:
    reply = await pushing.world.call(BOB, "GET", "/notifications", query=query)
    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")


async def test_tokens_are_bounded(pushing: Pushing) -> None:
    most = limits.NOTIFICATION_TOKEN_DIGITS
    assert await ids(pushing.world, f"from={'9' * most}") == []
    reply = await pushing.world.call(BOB, "GET", "/notifications", query=f"from={'9' * (most + 1)}")
    assert reply.status == 400


async def test_what_was_redacted_or_left_is_not_listed(pushing: Pushing) -> None:
    world, room_id = pushing.world, await pushing.room(BOB)
    redacted, kept = [await pushing.say(room_id, body) for body in ("a", "b")]
    assert (await world.in_room(ALICE, "PUT", room_id, f"redact/{redacted}/r")).status == 200
    assert await ids(world) == [kept]
    await world.in_room(BOB, "POST", room_id, "leave")
    await pushing.say(room_id, "unseen")
    assert await ids(world) == []
    await world.join(BOB, room_id)
    again = await pushing.say(room_id, "again")
    assert await ids(world) == [again]


async def test_actions_are_those_of_the_level_if_the_rules_say_otherwise_now(
    pushing: Pushing,
) -> None:
    world, room_id = pushing.world, await pushing.room(BOB, CAROL)
    await pushing.say(room_id, "hello")
    await pushing.say(room_id, "bob", **MENTION)
    await pushing.settled()
    master = "/pushrules/global/override/.m.rule.master/enabled"
    assert (await world.call(BOB, "PUT", master, {"enabled": True})).status == 200
    newest, oldest = (await listed(world))["notifications"]
    assert newest["actions"] == ["notify", {"set_tweak": "highlight"}]
    assert oldest["actions"] == ["notify"]


async def test_an_event_that_may_not_be_seen_is_left_out(
    pushing: Pushing, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, room_id = pushing.world, await pushing.room(BOB)
    event_id = await pushing.say(room_id, "hello")
    assert await ids(world) == [event_id]
    get, gone = world.engine.rooms.get, RoomId("!gone:here.example")
    assert await get(gone) is None

    async def unknown(_room_id: RoomId) -> None:
        return None

    service = pushing.services.notifications
    assert isinstance(service, Notifications)
    monkeypatch.setattr(world.engine.rooms, "get", unknown)
    assert await ids(world) == []
