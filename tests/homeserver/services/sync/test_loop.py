"""Syncs over the real engine: what a client gets, when."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from federation.events.ids import EventId, RoomId
from homeserver import limits
from homeserver.engine.entries import MembershipEntry, Unit
from homeserver.engine.rooms.reader import event_entry
from homeserver.engine.rooms.rooms import Room
from tests.homeserver.room_world import ALICE, BOB, CAROL, DAVE, STRANGER
from tests.homeserver.sync_world import DEV, SyncWorld, bodies, sync_world, types


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    async with sync_world(postgres_url) as world:
        yield world


async def test_a_first_sync_has_the_whole_room_and_the_next_one_nothing(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(name="Hall")
    await syncs.say(ALICE, room_id, "one")
    first = await syncs.get()
    room = first["rooms"]["join"][room_id]
    whole = [*room["state"]["events"], *room["timeline"]["events"]]
    assert {"m.room.create", "m.room.member", "m.room.name"} <= set(types(whole))
    assert len({event["event_id"] for event in whole}) == len(whole)
    assert bodies(whole) == ["one"]
    assert room["summary"] == {"m.joined_member_count": 1, "m.invited_member_count": 0}
    assert room["unread_notifications"] == {"highlight_count": 0, "notification_count": 0}
    again = await syncs.get(since=first["next_batch"])
    assert "rooms" not in again
    assert again["next_batch"] == first["next_batch"]
    assert again["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert again["device_unused_fallback_key_types"] == []


async def test_an_incremental_sync_has_what_is_new_and_the_same_again(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room()
    since = (await syncs.get())["next_batch"]
    await syncs.say(ALICE, room_id, "new")
    for _ in range(2):
        room = (await syncs.get(since=since))["rooms"]["join"][room_id]
        assert bodies(room["timeline"]["events"]) == ["new"]
        assert room["timeline"]["limited"] is False
        assert room["state"]["events"] == []
        assert "summary" not in room


async def test_a_long_timeline_is_limited_and_state_changes_in_the_gap_are_told(
    syncs: SyncWorld,
) -> None:
    room_id = await syncs.world.room()
    since = (await syncs.get())["next_batch"]
    await syncs.world.put_state(ALICE, room_id, "m.room.topic", {"topic": "in the gap"})
    await syncs.say(ALICE, room_id, *(str(number) for number in range(12)))
    await syncs.world.put_state(ALICE, room_id, "m.room.name", {"name": "in the timeline"})
    room = (await syncs.get(since=since))["rooms"]["join"][room_id]
    assert room["timeline"]["limited"] is True
    assert len(room["timeline"]["events"]) == 10
    assert types(room["state"]["events"]) == ["m.room.topic"]
    assert room["timeline"]["events"][-1]["type"] == "m.room.name"


async def test_the_first_syncs_state_is_that_before_the_timeline(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(topic="old")
    await syncs.say(ALICE, room_id, *(str(number) for number in range(9)))
    await syncs.world.put_state(ALICE, room_id, "m.room.topic", {"topic": "new"})
    room = (await syncs.get())["rooms"]["join"][room_id]
    topics = [e for e in room["state"]["events"] if e["type"] == "m.room.topic"]
    assert [event["content"]["topic"] for event in topics] == ["old"]
    newest = room["timeline"]["events"][-1]
    assert newest["content"] == {"topic": "new"}
    assert newest["unsigned"]["prev_content"]["topic"] == "old"
    assert newest["unsigned"]["replaces_state"] == topics[0]["event_id"]
    after = (await syncs.get(use_state_after=True))["rooms"]["join"][room_id]
    assert "state" not in after
    topics = [e["content"] for e in after["state_after"]["events"] if e["type"] == "m.room.topic"]
    assert topics == [{"topic": "new"}]


async def test_a_filter_keeps_state_events_out_of_the_timeline_but_not_out_of_state(
    syncs: SyncWorld,
) -> None:
    room_id = await syncs.world.room()
    since = (await syncs.get())["next_batch"]
    await syncs.say(ALICE, room_id, "before")
    await syncs.world.put_state(ALICE, room_id, "m.room.topic", {"topic": "hidden"})
    await syncs.say(ALICE, room_id, "after")
    only_messages = {"room": {"timeline": {"types": ["m.room.message"]}}}
    room = (await syncs.get(since=since, filter=only_messages))["rooms"]["join"][room_id]
    assert bodies(room["timeline"]["events"]) == ["before", "after"]
    assert types(room["state"]["events"]) == ["m.room.topic"]
    room = (await syncs.get(filter=only_messages))["rooms"]["join"][room_id]
    assert {"content": {"topic": "hidden"}}.items() <= next(
        event for event in room["state"]["events"] if event["type"] == "m.room.topic"
    ).items()


async def test_the_transaction_id_is_for_the_sending_device_alone(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.join(room_id, BOB)
    since = (await syncs.get())["next_batch"]
    await syncs.say(ALICE, room_id, "hello")
    for user, expected in ((ALICE, "say-hello"), (BOB, None)):
        room = (await syncs.get(user, since=since))["rooms"]["join"][room_id]
        [event] = room["timeline"]["events"]
        assert event["unsigned"].get("transaction_id") == expected
        assert event["unsigned"]["membership"] == "join"
        assert isinstance(event["unsigned"]["age"], int)


async def test_an_invite_brings_stripped_state_and_joining_the_whole_room(
    syncs: SyncWorld,
) -> None:
    since = (await syncs.get(BOB))["next_batch"]
    room_id = await syncs.world.room(name="Hall", invite=[BOB])
    answer = await syncs.get(BOB, since=since)
    assert set(answer["rooms"]) == {"invite"}
    stripped = answer["rooms"]["invite"][room_id]["invite_state"]["events"]
    assert {"m.room.create", "m.room.name", "m.room.join_rules"} <= set(types(stripped))
    assert all(set(event) == {"type", "state_key", "sender", "content"} for event in stripped)
    [own] = [event for event in stripped if event["state_key"] == BOB]
    assert own["content"]["membership"] == "invite"
    since = answer["next_batch"]
    assert "rooms" not in await syncs.get(BOB, since=since)
    await syncs.say(ALICE, room_id, "not for invited ones")
    assert "rooms" not in await syncs.get(BOB, since=since)
    await syncs.join(room_id, BOB)
    room = (await syncs.get(BOB, since=since))["rooms"]["join"][room_id]
    whole = [*room["state"]["events"], *room["timeline"]["events"]]
    assert {"m.room.create", "m.room.name", "m.room.power_levels"} <= set(types(whole))
    assert room["summary"]["m.joined_member_count"] == 2


async def test_a_left_room_ends_with_the_leave(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.join(room_id, BOB)
    since = (await syncs.get(BOB))["next_batch"]
    await syncs.say(ALICE, room_id, "before")
    await syncs.world.in_room(BOB, "POST", room_id, "leave")
    await syncs.say(ALICE, room_id, "after")
    room = (await syncs.get(BOB, since=since))["rooms"]["leave"][room_id]
    events = room["timeline"]["events"]
    assert types(events) == ["m.room.message", "m.room.member"]
    assert bodies(events) == ["before"]
    assert events[-1]["unsigned"]["membership"] == "leave"
    assert "rooms" not in await syncs.get(BOB)
    left = (await syncs.get(BOB, filter={"room": {"include_leave": True}}))["rooms"]["leave"]
    assert bodies(left[room_id]["timeline"]["events"]) == ["before"]
    await syncs.world.in_room(BOB, "POST", room_id, "forget")
    assert "rooms" not in await syncs.get(BOB, filter={"room": {"include_leave": True}})


async def test_who_joins_again_sees_what_was_said_meanwhile_only_in_open_rooms(
    syncs: SyncWorld,
) -> None:
    for visibility, expected in (("shared", ["away", "back"]), ("joined", ["back"])):
        room_id = await syncs.world.room(
            preset="public_chat",
            initial_state=[
                {
                    "type": "m.room.history_visibility",
                    "content": {"history_visibility": visibility},
                }
            ],
        )
        await syncs.join(room_id, BOB)
        since = (await syncs.get(BOB))["next_batch"]
        await syncs.world.in_room(BOB, "POST", room_id, "leave")
        await syncs.say(ALICE, room_id, "away")
        await syncs.join(room_id, BOB)
        await syncs.say(ALICE, room_id, "back")
        room = (await syncs.get(BOB, since=since))["rooms"]["join"][room_id]
        assert bodies(room["timeline"]["events"]) == expected


async def test_lazy_loading_sends_each_member_once(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(preset="public_chat", name="Hall")
    await syncs.join(room_id, BOB)
    await syncs.say(ALICE, room_id, *(str(number) for number in range(12)))
    lazy = {"room": {"state": {"lazy_load_members": True}}}

    def members(answer: dict[str, object]) -> list[str]:
        rooms: dict[str, object] = answer["rooms"]  # type: ignore[assignment]
        room = rooms["join"][room_id]  # type: ignore[index]
        return sorted(
            event["state_key"]
            for event in room["state"]["events"]
            if event["type"] == "m.room.member"
        )

    first = await syncs.get(filter=lazy)
    assert members(first) == [ALICE]
    await syncs.say(BOB, room_id, "from bob")
    second = await syncs.get(since=first["next_batch"], filter=lazy)
    assert members(second) == [BOB]
    again = await syncs.get(since=first["next_batch"], filter=lazy)
    assert members(again) == [BOB], "the answer before may have been lost"
    await syncs.say(BOB, room_id, "once more")
    third = await syncs.get(since=second["next_batch"], filter=lazy)
    assert members(third) == []
    lazy["room"]["state"]["include_redundant_members"] = True
    assert members(await syncs.get(since=second["next_batch"], filter=lazy)) == [BOB]


async def test_a_room_without_name_has_heroes(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.join(room_id, BOB)
    first = await syncs.get()
    assert first["rooms"]["join"][room_id]["summary"]["m.heroes"] == [BOB]
    await syncs.world.put_state(ALICE, room_id, "m.room.name", {"name": "Hall"})
    second = await syncs.get(since=first["next_batch"])
    assert "m.heroes" not in second["rooms"]["join"][room_id]["summary"]


async def test_what_is_beside_events_is_told_once(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.join(room_id, BOB)
    [event_id] = await syncs.say(ALICE, room_id, "read me")
    since = (await syncs.get())["next_batch"]
    await syncs.receipts.send(BOB, room_id, "m.read", event_id)
    await syncs.receipts.send(BOB, room_id, "m.read.private", event_id)
    await syncs.typing.set(BOB, room_id, typing=True, timeout_ms=30_000)
    await syncs.account_data.put(ALICE, "", "org.example", {"a": 1})
    await syncs.account_data.put(ALICE, room_id, "org.example.room", {"b": 2})
    await syncs.account_data.put(BOB, "", "org.example.bobs", {"c": 3})
    await syncs.to_device.send(
        BOB,
        DEV,
        event_type="org.example.hi",
        transaction_id="t",
        messages={ALICE: {DEV: {"x": 1}}},
    )
    answer = await syncs.get(since=since)
    room = answer["rooms"]["join"][room_id]
    by_type = {event["type"]: event["content"] for event in room["ephemeral"]["events"]}
    assert set(by_type["m.receipt"][event_id]) == {"m.read"}
    assert by_type["m.typing"] == {"user_ids": [BOB]}
    assert room["account_data"]["events"] == [{"type": "org.example.room", "content": {"b": 2}}]
    assert answer["account_data"]["events"] == [{"type": "org.example", "content": {"a": 1}}]
    assert answer["to_device"]["events"] == [
        {"type": "org.example.hi", "sender": BOB, "content": {"x": 1}}
    ]
    after = await syncs.get(since=answer["next_batch"])
    assert not {"rooms", "account_data", "to_device"} & set(after)
    first = await syncs.get()
    room = first["rooms"]["join"][room_id]
    assert {event["type"] for event in room["ephemeral"]["events"]} == {"m.receipt", "m.typing"}
    assert room["account_data"]["events"] == [{"type": "org.example.room", "content": {"b": 2}}]
    own = [event["type"] for event in first["account_data"]["events"]]
    assert own == ["m.push_rules", "org.example"], "the rules are not stored, but told first"
    assert "to_device" not in first, "it was acknowledged"


async def test_messages_to_a_device_come_until_a_later_since(syncs: SyncWorld) -> None:
    since = (await syncs.get())["next_batch"]
    for number in range(3):
        await syncs.to_device.send(
            BOB,
            DEV,
            event_type="m.test",
            transaction_id=str(number),
            messages={ALICE: {DEV: {"n": number}}},
        )
    for _ in range(2):
        answer = await syncs.get(since=since)
        numbers = [event["content"]["n"] for event in answer["to_device"]["events"]]
        assert numbers == [0, 1, 2]


async def test_a_sync_has_so_many_messages_and_the_next_one_the_rest(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TO_DEVICE_PER_SYNC", 2)
    since = (await syncs.get())["next_batch"]
    for number in range(3):
        message = {ALICE: {DEV: {"n": number}}}
        await syncs.to_device.send(
            BOB, DEV, event_type="m.test", transaction_id=f"so many {number}", messages=message
        )
    for expected in ([0, 1], [2]):
        answer = await syncs.get(since=since)
        numbers = [event["content"]["n"] for event in answer["to_device"]["events"]]
        assert numbers == expected
        since = answer["next_batch"]


async def test_a_waiting_sync_is_answered_when_something_comes(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.join(room_id, BOB)
    since = (await syncs.get(BOB))["next_batch"]
    waiting = asyncio.ensure_future(syncs.get(BOB, since=since, timeout=60_000))
    await asyncio.sleep(0)
    await syncs.account_data.put(ALICE, "", "org.example", {"not": "for bob"})
    assert not waiting.done()
    await syncs.say(ALICE, room_id, "wake up")
    answer = await asyncio.wait_for(waiting, 30)
    assert bodies(answer["rooms"]["join"][room_id]["timeline"]["events"]) == ["wake up"]


async def test_a_waiting_sync_wakes_for_an_invite_typing_and_messages_to_the_device(
    syncs: SyncWorld,
) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.join(room_id, BOB)

    async def invite() -> None:
        await syncs.world.room(invite=[BOB])

    async def type_() -> None:
        await syncs.typing.set(ALICE, room_id, typing=True, timeout_ms=9_000)

    async def message() -> None:
        await syncs.to_device.send(
            ALICE, DEV, event_type="m.x", transaction_id="1", messages={BOB: {"*": {}}}
        )

    for act, section in ((invite, "rooms"), (type_, "rooms"), (message, "to_device")):
        since = (await syncs.get(BOB))["next_batch"]
        waiting = asyncio.ensure_future(syncs.get(BOB, since=since, timeout=60_000))
        await asyncio.sleep(0)
        await act()
        assert section in await asyncio.wait_for(waiting, 30)


async def test_a_sync_ends_empty_when_its_time_is_over(syncs: SyncWorld) -> None:
    await syncs.world.room()
    since = (await syncs.get())["next_batch"]
    answer = await asyncio.wait_for(syncs.get(since=since, timeout=20), 30)
    assert "rooms" not in answer


async def test_a_token_of_another_history_or_from_beyond_the_end_begins_anew(
    syncs: SyncWorld,
) -> None:
    """All devices may have changed in what was lost."""
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.world.join(BOB, room_id)
    for since in ("s1.other.1:1.1.0.0", "s1.history.1:99999.99999.0.0"):
        answer = await asyncio.wait_for(syncs.get(since=since, timeout=60_000), 30)
        assert types(answer["rooms"]["join"][room_id]["timeline"]["events"])[0] == "m.room.create"
        assert answer["device_lists"]["changed"] == sorted([ALICE, BOB])
    assert "device_lists" not in await syncs.get()


async def test_a_token_that_is_not_ours_is_refused(syncs: SyncWorld) -> None:
    for since in ("s72594_4483_1934", "m1.1.0", "\u0661"):
        reply = await syncs.scope(since=since)
        assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")


async def test_full_state_with_since_has_all_state_and_only_new_events(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(name="Hall")
    since = (await syncs.get())["next_batch"]
    await syncs.say(ALICE, room_id, "new")
    answer = await syncs.get(since=since, full_state=True, timeout=60_000)
    room = answer["rooms"]["join"][room_id]
    assert bodies(room["timeline"]["events"]) == ["new"]
    assert len(room["timeline"]["events"]) == 1
    assert {"m.room.create", "m.room.name", "m.room.member"} <= set(types(room["state"]["events"]))


async def test_a_redacted_event_comes_without_its_content(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room()
    since = (await syncs.get())["next_batch"]
    [event_id] = await syncs.say(ALICE, room_id, "secret")
    reply = await syncs.world.in_room(
        ALICE, "PUT", room_id, f"redact/{event_id}/t", {"reason": "no"}
    )
    assert reply.status == 200
    for token in (since, None):
        room = (await syncs.get(since=token))["rooms"]["join"][room_id]
        message = next(e for e in room["timeline"]["events"] if e["event_id"] == event_id)
        assert message["content"] == {}
        assert message["unsigned"]["redacted_because"]["content"]["reason"] == "no"


async def test_a_reader_far_behind_gets_the_same_from_the_database(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    other = await syncs.world.room(preset="public_chat")
    await syncs.join(room_id, BOB)
    await syncs.join(other, BOB)
    since = (await syncs.get(BOB))["next_batch"]
    await syncs.world.put_state(ALICE, room_id, "m.room.topic", {"topic": "gap"})
    sent = await syncs.say(ALICE, room_id, *(str(number) for number in range(11)))
    await syncs.receipts.send(ALICE, room_id, "m.read", sent[-1])
    await syncs.account_data.put(BOB, RoomId(room_id), "org.example.room", {"b": 2})
    near = await syncs.get(BOB, since=since)
    monkeypatch.setattr("homeserver.limits.SYNC_TAIL_SCAN_ENTRIES", -1)
    far = await syncs.get(BOB, since=since)
    assert {event["sender"] for event in far.pop("presence")["events"]} == {BOB}
    for answer in (near, far):
        room = answer["rooms"]["join"][room_id]
        for event in room["timeline"]["events"]:
            del event["unsigned"]["age"]
        assert types(room["state"]["events"]) == ["m.room.topic"]
    assert near == far


async def test_a_timeline_begins_behind_a_gap_and_is_limited(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await syncs.world.room()
    since = (await syncs.get())["next_batch"]
    sent = await syncs.say(ALICE, room_id, "before", "after", "later")
    lost = await syncs.world.reader.place(
        await syncs.world.engine.writer.room(room_id), EventId(sent[1])
    )
    assert lost is not None
    previous = event_entry(lost).event.prev_events

    async def gaps(room: Room, order: tuple[int, int]) -> list[EventId]:
        return list(previous)

    monkeypatch.setattr(syncs.world.reader, "gaps", gaps)
    monkeypatch.setattr("homeserver.services.sync.rooms.timelines._follows", lambda *_: False)
    timeline = (await syncs.get(since=since))["rooms"]["join"][room_id]["timeline"]
    assert bodies(timeline["events"]) == ["after", "later"]
    assert timeline["limited"] is True


async def test_an_invite_from_afar_has_pruned_stripped_state(syncs: SyncWorld) -> None:
    since = (await syncs.get(BOB))["next_batch"]
    room_id = RoomId("!afar:there.example")
    stripped = [
        {
            "type": "m.room.name",
            "state_key": "",
            "sender": STRANGER,
            "content": {"name": "N"},
            "origin": "there.example",
        },
        {"type": "m.room.topic", "state_key": "", "sender": STRANGER},
        "no event",
    ]
    entry = MembershipEntry(
        BOB, room_id, "invite", EventId("$i"), STRANGER, stripped=orjson.dumps(stripped)
    )
    await syncs.world.committer.submit(Unit([entry]))
    invite = (await syncs.get(BOB, since=since))["rooms"]["invite"][room_id]
    name, own = invite["invite_state"]["events"]
    assert name == {key: stripped[0][key] for key in ("type", "state_key", "sender", "content")}  # type: ignore[index]
    assert own == {
        "type": "m.room.member",
        "state_key": BOB,
        "sender": STRANGER,
        "content": {"membership": "invite"},
    }
    refused = MembershipEntry(BOB, room_id, "leave", EventId("$l"), BOB)
    await syncs.world.committer.submit(Unit([refused]))
    rooms = (await syncs.get(BOB, since=since))["rooms"]
    assert set(rooms) == {"leave"}
    assert rooms["leave"][room_id]["timeline"]["events"] == []


async def test_device_lists_name_who_shares_a_room_now(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    since = (await syncs.get())["next_batch"]
    await syncs.join(room_id, BOB)
    answer = await syncs.get(since=since)
    assert answer["device_lists"] == {"changed": [BOB], "left": []}
    since = answer["next_batch"]
    await syncs.world.in_room(BOB, "POST", room_id, "leave")
    answer = await syncs.get(since=since)
    assert answer["device_lists"] == {"changed": [], "left": [BOB]}


async def test_device_lists_tell_of_those_to_encrypt_for_and_of_nobody_elses_rooms(
    syncs: SyncWorld,
) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.join(room_id, CAROL)
    since = (await syncs.get())["next_batch"]
    of_bob = (await syncs.get(BOB))["next_batch"]
    reply = await syncs.world.in_room(ALICE, "POST", room_id, "invite", {"user_id": BOB})
    assert reply.status == 200, reply
    answer = await syncs.get(since=since)
    assert answer["device_lists"] == {"changed": [BOB], "left": []}
    assert "device_lists" not in await syncs.get(BOB, since=of_bob)
    await syncs.world.in_room(BOB, "POST", room_id, "leave")
    assert "device_lists" not in await syncs.get(since=answer["next_batch"])
    assert "device_lists" not in await syncs.get(BOB, since=of_bob)
    await syncs.join(room_id, BOB)
    of_bob = (await syncs.get(BOB, since=of_bob))["next_batch"]
    await syncs.world.in_room(BOB, "POST", room_id, "leave")
    await syncs.join(room_id, DAVE)
    assert (await syncs.get(BOB, since=of_bob))["device_lists"]["left"] == [ALICE, CAROL]
    since = (await syncs.get())["next_batch"]
    content = {"algorithm": "m.megolm.v1.aes-sha2"}
    await syncs.world.put_state(ALICE, room_id, "m.room.encryption", content)
    answer = await syncs.get(since=since)
    assert answer["device_lists"] == {"changed": [ALICE, CAROL, DAVE], "left": []}


async def test_bad_parameters_are_refused(syncs: SyncWorld) -> None:
    wrong: list[tuple[str, object]] = [
        ("timeout", "soon"),
        ("timeout", "-1"),
        ("full_state", "yes"),
        ("set_presence", "dancing"),
        ("filter", "12345"),
    ]
    for name, value in wrong:
        reply = await syncs.scope(ALICE, since=None, **{name: value})
        assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM"), name
    assert (await syncs.scope(filter="{")).errcode == "M_BAD_JSON"
    assert (await syncs.scope(timeout=0, set_presence="offline")).status == 200


async def test_an_inline_filter_has_a_limit_of_size(syncs: SyncWorld) -> None:
    spare = limits.FILTER_BYTES - len('{"x":""}')
    assert (await syncs.scope(filter='{"x":"%s"}' % ("y" * spare))).status == 200
    assert (await syncs.scope(filter='{"x":"%s"}' % ("y" * (spare + 1)))).status == 400


async def test_ignored_users_reach_a_sync_with_state_alone(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.join(room_id, BOB)
    since = (await syncs.get())["next_batch"]
    ignored: dict[str, object] = {"ignored_users": {BOB: {}}}
    await syncs.account_data.put(ALICE, "", "m.ignored_user_list", ignored)
    await syncs.say(BOB, room_id, "unwanted")
    await syncs.world.in_room(BOB, "POST", room_id, "leave")
    invited = await syncs.world.room(BOB, invite=[ALICE])
    for token in (since, None):
        rooms = (await syncs.get(since=token))["rooms"]
        assert "invite" not in rooms
        events = rooms["join"][room_id]["timeline"]["events"]
        assert bodies(events) == []
        assert events[-1]["content"]["membership"] == "leave"
    await syncs.account_data.put(ALICE, "", "m.ignored_user_list", {"ignored_users": "nobody"})
    rooms = (await syncs.get(since=since))["rooms"]
    assert bodies(rooms["join"][room_id]["timeline"]["events"]) == ["unwanted"]
    assert set(rooms["invite"]) == {invited}


async def test_after_a_restart_a_client_goes_on_where_it_was(postgres_url: str) -> None:
    async with sync_world(postgres_url) as before:
        room_id = await before.world.room(preset="public_chat")
        quiet = await before.world.room(name="Quiet")
        since = (await before.get())["next_batch"]
        await before.join(room_id, BOB)
        await before.world.put_state(ALICE, room_id, "m.room.topic", {"topic": "gap"})
        await before.say(BOB, room_id, *(str(number) for number in range(11)))
        expected = await before.get(since=since)
        whole = await before.get()
    async with sync_world(postgres_url) as after:
        answer = await after.get(since=since)
        again = await after.get()
        assert "rooms" not in await after.get(since=expected["next_batch"])
    assert quiet not in answer["rooms"]["join"]
    for old, new in ((expected, answer), (whole, again)):
        assert set(old["rooms"]["join"]) == set(new["rooms"]["join"])
        for part in ("state", "timeline"):
            one, other = (sorted_events(a["rooms"]["join"][room_id][part]) for a in (old, new))
            assert one == other
    assert answer["rooms"]["join"][room_id]["timeline"]["limited"] is True
    assert answer["device_lists"] == expected["device_lists"]


def sorted_events(part: dict[str, Any]) -> list[tuple[str, object]]:
    return sorted((event["event_id"], event["content"]) for event in part["events"])


async def test_a_user_who_takes_no_invites_is_told_of_none(syncs: SyncWorld) -> None:
    """Neither of those that came before, in a first sync or a later one, nor of invites to rooms
    elsewhere; knocks are their own. Once invites are taken again, a first sync has them."""
    room_id = await syncs.world.room(BOB)
    since = (await syncs.get())["next_batch"]
    await syncs.world.in_room(BOB, "POST", room_id, "invite", {"user_id": ALICE})
    elsewhere, knocked = RoomId("!elsewhere:there.example"), RoomId("!knocked:there.example")
    await syncs.world.remote.invite_ours(elsewhere, ALICE, STRANGER)
    await syncs.world.remote.set_ours(knocked, ALICE, "knock")
    config = "m.invite_permission_config"
    both = {room_id, elsewhere}
    for action, told in (("block", set()), ("allow", both), ("block", set()), (None, both)):
        content = {} if action is None else {"default_action": action}
        await syncs.account_data.put(ALICE, "", config, content)
        for start in (None, since):
            rooms = (await syncs.get(since=start))["rooms"]
            assert set(rooms.get("invite", {})) == told
            assert set(rooms["knock"]) == {knocked}
