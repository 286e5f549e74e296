"""Sending messages and redactions, over the real engine."""

import asyncio
from typing import Any

import pytest

from homeserver import limits
from tests.homeserver.room_world import ALICE, BOB, CAROL, World, room_world


async def shared_room(world: World, **body: Any) -> str:
    """A public room with Alice, who made it, and Bob."""
    room_id = await world.room(preset="public_chat", **body)
    assert (await world.join(BOB, room_id)).status == 200
    return room_id


async def content_of(world: World, event_id: str) -> dict[str, Any]:
    """What is stored of an event."""
    known = await world.engine.rooms.events([event_id])  # type: ignore[list-item]
    return dict(known[event_id].event.content)  # type: ignore[index]


async def test_a_message_is_stored_as_it_was_sent(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await shared_room(world)
        content = {"msgtype": "m.text", "body": "häy \0 \U0001f600", "n": [1, None, {"a": True}]}
        reply = await world.send(BOB, room_id, content)
        assert reply.body["event_id"].startswith("$")
        assert await content_of(world, reply.body["event_id"]) == content


async def test_a_repeated_transaction_gives_the_first_event(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id, other = await shared_room(world), await shared_room(world)
        first = await world.send(BOB, room_id, {"body": "1"})
        assert await world.send(BOB, room_id, {"body": "2"}) == first
        at_once = await asyncio.gather(
            *(world.send(BOB, room_id, {"body": "3"}, "t2") for _ in range(3))
        )
        assert len({reply.body["event_id"] for reply in at_once}) == 1
        assert await world.send(BOB, other, {"body": "1"}) != first
        assert await world.send(ALICE, room_id, {"body": "1"}) != first
        sticker = await world.in_room(BOB, "PUT", room_id, "send/m.sticker/t1", {"body": "1"})
        assert sticker.status == 200
        assert sticker != first


async def test_who_is_not_in_the_room_can_not_send(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await shared_room(world)
        for where in (room_id, "!nowhere:here.example", "odd"):
            reply = await world.send(CAROL, where, {"body": "hi"})
            assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({"f": 1.5}, 400, "M_BAD_JSON"),
        ({"n": 2**53}, 400, "M_BAD_JSON"),
        (b'{"n": 1e400}', 400, None),
        (b"[]", 400, "M_BAD_JSON"),
        (b"{", 400, "M_NOT_JSON"),
        (b"", 400, "M_NOT_JSON"),
        ({"body": "x" * 65_536}, 413, "M_TOO_LARGE"),
    ],
)
async def test_what_can_not_be_an_event_is_refused(
    shared_database_url: str, body: Any, status: int, errcode: str | None
) -> None:
    async with room_world(shared_database_url) as world:
        reply = await world.send(ALICE, await shared_room(world), body)
        assert reply.status == status
        assert errcode is None or reply.errcode == errcode


async def test_an_event_just_below_the_size_limit_is_sent(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await shared_room(world)
        assert (await world.send(ALICE, room_id, {"body": "x" * 64_000})).status == 200
        assert (await world.send(ALICE, room_id, {"n": 2**53 - 1}, "t2")).status == 200


async def test_a_transaction_id_has_a_limited_length(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await shared_room(world)
        longest = "t" * limits.TRANSACTION_ID_BYTES
        assert (await world.send(ALICE, room_id, {}, longest)).status == 200
        assert (await world.send(ALICE, room_id, {}, longest + "t")).errcode == "M_INVALID_PARAM"
        wide = "%C3%A4" * (limits.TRANSACTION_ID_BYTES // 2 + 1)
        assert (await world.send(ALICE, room_id, {}, wide)).errcode == "M_INVALID_PARAM"


async def test_state_types_can_not_be_sent_as_messages_that_break_the_room(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await shared_room(world)
        for event_type, refusal in (
            ("m.room.create", (400, "M_INVALID_PARAM")),
            ("m.room.member", (403, "M_FORBIDDEN")),
        ):
            reply = await world.in_room(ALICE, "PUT", room_id, f"send/{event_type}/t1", {})
            assert (reply.status, reply.errcode) == refusal


@pytest.mark.parametrize("version", ["10", "11", "12"])
async def test_users_redact_their_own_events_and_moderators_all(
    shared_database_url: str, version: str
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await shared_room(world, room_version=version)
        sent = [
            (await world.send(user, room_id, {"body": "secret"}, f"t{number}")).body["event_id"]
            for number, user in enumerate((BOB, BOB, ALICE))
        ]
        own = await world.in_room(BOB, "PUT", room_id, f"redact/{sent[0]}/r1", {"reason": "oops"})
        assert own.status == 200
        by_moderator = await world.in_room(ALICE, "PUT", room_id, f"redact/{sent[1]}/r1")
        assert by_moderator.status == 200
        refused = await world.in_room(BOB, "PUT", room_id, f"redact/{sent[2]}/r2")
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
        assert [await content_of(world, event_id) for event_id in sent] == [
            {},
            {},
            {"body": "secret"},
        ]
        stored = await world.engine.rooms.events([own.body["event_id"]])
        redaction = stored[own.body["event_id"]].event
        assert redaction.redacts == sent[0]
        assert redaction.content["reason"] == "oops"


@pytest.mark.parametrize("version", ["10", "11"])
async def test_a_redaction_can_be_sent_as_any_event(shared_database_url: str, version: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await shared_room(world, room_version=version)
        target = (await world.send(BOB, room_id, {"body": "secret"})).body["event_id"]

        async def send(user: Any, body: object, transaction: str) -> Any:
            path = f"send/m.room.redaction/{transaction}"
            return await world.in_room(user, "PUT", room_id, path, body)

        assert (await send(CAROL, {"redacts": target}, "r1")).status == 403
        assert (await send(BOB, {}, "r1")).errcode == "M_BAD_JSON"
        assert (await send(BOB, {"redacts": "odd"}, "r2")).errcode == "M_INVALID_PARAM"
        assert (await send(BOB, {"redacts": target}, "r3")).status == 200
        assert await content_of(world, target) == {}


async def test_unknown_events_and_those_of_other_rooms_are_redacted_by_moderators_only(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        room_id, other = await shared_room(world), await shared_room(world)
        elsewhere = (await world.send(BOB, other, {"body": "keep"})).body["event_id"]
        for target in ("$unknown", elsewhere):
            refused = await world.in_room(BOB, "PUT", room_id, f"redact/{target}/r1")
            assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")
            allowed = await world.in_room(ALICE, "PUT", room_id, f"redact/{target}/{target[1:9]}")
            assert allowed.status == 200
        assert await content_of(world, elsewhere) == {"body": "keep"}


async def test_a_repeated_redaction_gives_the_first_event(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await shared_room(world)
        target = (await world.send(BOB, room_id, {"body": "x"})).body["event_id"]
        first = await world.in_room(BOB, "PUT", room_id, f"redact/{target}/r1")
        assert await world.in_room(BOB, "PUT", room_id, f"redact/{target}/r1") == first
