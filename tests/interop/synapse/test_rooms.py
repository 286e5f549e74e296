"""Rooms that a Synapse and a Freehold share: each step in both directions, in several versions."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

import pytest

from tests.interop.synapse.conftest import Couple, Meeting
from tests.interop.synapse.person import JsonObject, Person, RoomView, histories, quote, room_path
from tests.interop.synapse.servers import SIDES

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),  # the first of them may have to install Synapse
]

RACING_WORDS = 12


async def have_the_same_state(one: Person, two: Person, room_id: str) -> None:
    """Check that each type and key is the same event on both servers."""
    assert await one.state_ids(room_id) == await two.state_ids(room_id)


async def have_the_same_history(one: Person, two: Person, room_id: str) -> None:
    """Check that both servers list the same events in the same order, from the first to the last,
    with the same content."""
    first, second = await histories(one, two, room_id)
    assert [summary(event) for event in first] == [summary(event) for event in second]


async def have_the_same_events(one: Person, two: Person, room_id: str) -> None:
    """Check that both servers list the same events, each once, with the same content."""
    first, second = await histories(one, two, room_id)
    by_id = {event["event_id"]: summary(event) for event in first}
    assert by_id == {event["event_id"]: summary(event) for event in second}
    assert len(by_id) == len(first) == len(second)


def summary(event: JsonObject) -> tuple[str, str, JsonObject]:
    """Return what has to be the same of an event on every server."""
    return event["event_id"], event["type"], event["content"]


def has_receipt(event_id: str) -> Callable[[RoomView], bool]:
    """Return what says whether a receipt for an event came."""
    return lambda view: event_id in view.receipts


def has_name(user_id: str, name: str) -> Callable[[RoomView], bool]:
    """Return what says whether a member has a name."""
    return lambda view: view.content("m.room.member", user_id).get("displayname") == name


async def is_redacted_for(person: Person, room_id: str, event_id: str) -> bool:
    """Return whether a server has only a message's redacted form left, and says why."""
    event = await person.event(room_id, event_id)
    assert event["type"] == "m.room.message"
    is_empty = event["content"] == {}
    assert is_empty is ("redacted_because" in event.get("unsigned", {}))
    return is_empty


async def test_both_servers_have_the_same_state_after_a_join(meeting: Meeting) -> None:
    """Each type and key is the same event on both."""
    await have_the_same_state(meeting.host, meeting.guest, meeting.room_id)
    state = await meeting.guest.state_ids(meeting.room_id)
    assert ("m.room.member", meeting.guest.user_id) in state


async def test_the_joiner_pages_back_over_all_that_was_said_before(meeting: Meeting) -> None:
    """All events since the room's creation, in the order of the server that made them."""
    await have_the_same_history(meeting.host, meeting.guest, meeting.room_id)
    of_guest = [event["event_id"] for event in await meeting.guest.history(meeting.room_id)]
    assert [one for one in of_guest if one in meeting.first_words] == meeting.first_words


@pytest.mark.long
@pytest.mark.parametrize(
    "couple", [("12", side) for side in SIDES], ids=lambda one: f"made on {one[1]}", indirect=True
)
async def test_a_history_that_takes_several_requests_is_paged_over(couple: Couple) -> None:
    """A server gives at most 100 events to one request for older ones."""
    meeting = await couple.meet(150)
    await have_the_same_history(meeting.host, meeting.guest, meeting.room_id)
    history = await meeting.guest.history(meeting.room_id)
    words = [event["event_id"] for event in history if event["type"] == "m.room.message"]
    assert words == meeting.first_words


async def test_messages_go_both_ways(meeting: Meeting) -> None:
    """What is said is read on the other server, under the same event ID, with its content."""
    content = {"msgtype": "m.text", "body": "grüße 🎈 \u0007", "odd": [None, -0, 2**53 - 1]}
    for speaker, listener in meeting.couple.both:
        event_id = await speaker.send(meeting.room_id, "m.room.message", content)
        event = await listener.until_has(meeting.room_id, event_id)
        assert event["content"] == content
        assert event["sender"] == speaker.user_id


async def test_state_changes_go_both_ways(meeting: Meeting) -> None:
    """The topic, set by each in turn, and a type that no server knows."""
    for speaker, listener in meeting.couple.both:
        topic = await speaker.put_state(meeting.room_id, "m.room.topic", {"topic": speaker.user_id})
        odd = await speaker.put_state(meeting.room_id, "org.example.odd", {"by": "us"}, "a/b c")
        await listener.until_has(meeting.room_id, odd)
        state = await listener.state_ids(meeting.room_id)
        assert state["m.room.topic", ""] == topic
        assert state["org.example.odd", "a/b c"] == odd
        await have_the_same_state(speaker, listener, meeting.room_id)


async def test_senders_redact_their_own_messages(meeting: Meeting) -> None:
    """Both servers cut the message down once the redaction is there."""
    room_id = meeting.room_id
    for speaker, listener in meeting.couple.both:
        event_id = await speaker.say(room_id, "a slip")
        await listener.until_has(room_id, event_id)
        redaction = await listener.until_has(room_id, await speaker.redact(room_id, event_id))
        assert event_id in (redaction.get("redacts"), redaction["content"].get("redacts"))
        assert await is_redacted_for(listener, room_id, event_id)
        assert await is_redacted_for(speaker, room_id, event_id)


async def test_moderators_redact_messages_of_the_other_server(meeting: Meeting) -> None:
    """Each of the two may, by its power level."""
    room_id = meeting.room_id
    for speaker, moderator in meeting.couple.both:
        event_id = await speaker.say(room_id, "an insult")
        await moderator.until_has(room_id, event_id)
        await speaker.until_has(room_id, await moderator.redact(room_id, event_id))
        assert await is_redacted_for(speaker, room_id, event_id)
        assert await is_redacted_for(moderator, room_id, event_id)


async def test_a_redaction_that_comes_before_its_target_is_kept_for_it(couple: Couple) -> None:
    """The guest's server learns of the redaction at once, and of the message when its user pages
    back. A message that was redacted before the join comes as it is by then."""
    host, guest = couple.host, couple.guest
    room_id = await host.create_room(couple.version)
    said = [await host.say(room_id, f"before {number}") for number in range(30)]
    await host.redact(room_id, said[2])
    await guest.join(room_id, host.server)
    await guest.until_in(room_id, "join")
    await host.redact(room_id, said[1])  # shown to nobody before its target is
    await guest.until_has(room_id, await host.say(room_id, "after"))
    await guest.until_in_history(room_id, set(said))
    history = {event["event_id"]: event for event in await guest.history(room_id)}
    assert [history[event_id]["content"].get("body") for event_id in said[:4]] == [
        "before 0",
        None,
        None,
        "before 3",
    ]


async def test_typing_and_receipts_go_both_ways(meeting: Meeting) -> None:
    """Typing begins and ends; the receipt is for the message that the other one sent."""
    room_id = meeting.room_id
    for speaker, listener in meeting.couple.both:
        typing = f"{room_path(room_id)}/typing/{quote(speaker.user_id)}"
        await speaker.must("PUT", typing, {"typing": True, "timeout": 60_000})
        await listener.until_room(room_id, lambda view: view.typing != [], "typing")
        assert listener.rooms[room_id].typing == [speaker.user_id]
        await speaker.must("PUT", typing, {"typing": False})
        await listener.until_room(room_id, lambda view: view.typing == [], "the end of typing")
        event_id = await listener.say(room_id, "read this")
        await speaker.until_has(room_id, event_id)
        await speaker.must("POST", f"{room_path(room_id)}/receipt/m.read/{quote(event_id)}", {})
        await listener.until_room(room_id, has_receipt(event_id), "a receipt")
        assert list(listener.rooms[room_id].receipts[event_id]["m.read"]) == [speaker.user_id]


async def test_a_new_display_name_reaches_the_other_server(meeting: Meeting) -> None:
    """In the room, and when the other server is asked for the profile."""
    for speaker, listener in meeting.couple.both:
        name = f"Dr. {secrets.token_hex(3)}"
        profile = f"/profile/{quote(speaker.user_id)}"
        await speaker.must("PUT", f"{profile}/displayname", {"displayname": name})
        await listener.until_room(meeting.room_id, has_name(speaker.user_id, name), "the name")
        assert (await listener.must("GET", f"{profile}/displayname"))["displayname"] == name
        await have_the_same_state(speaker, listener, meeting.room_id)


async def test_racing_sends_and_state_end_in_the_same_room(couple: Couple) -> None:
    """Both set the topic at the same moment, while a dozen messages go each way. The topic that
    loses need not be in a timeline: it isn't the room's state when that timeline ends."""
    meeting = await couple.meet()
    room_id = meeting.room_id

    async def race(person: Person) -> list[str]:
        topic = person.put_state(room_id, "m.room.topic", {"topic": person.user_id})
        words = (person.say(room_id, f"racing {number}") for number in range(RACING_WORDS))
        return await asyncio.gather(*words, topic)

    sent = await asyncio.gather(race(couple.host), race(couple.guest))
    expected = {event_id for ids in sent for event_id in ids}
    for person in (couple.host, couple.guest):
        await person.until_in_history(room_id, expected)
    await have_the_same_state(couple.host, couple.guest, room_id)
    await have_the_same_events(couple.host, couple.guest, room_id)


async def test_who_is_demoted_while_acting_ends_the_same_on_both_servers(
    couple: Couple, third: Person
) -> None:
    """The host takes the guest's power away, while the guest sets the topic and bans somebody: the
    servers see these in another order, and have to resolve them to the same state. Where the
    demotion comes first, the guest is refused."""
    meeting = await couple.meet()
    host, guest, room_id = couple.host, couple.guest, meeting.room_id
    await third.join(room_id, host.server)
    await guest.until_member(room_id, third.user_id, "join")
    levels = await host.must("GET", f"{room_path(room_id)}/state/m.room.power_levels")
    levels["users"] = {**levels["users"], guest.user_id: 0}

    async def while_allowed(method: str, path: str, body: JsonObject) -> None:
        answer = await guest.call(method, f"{room_path(room_id)}/{path}", body)
        assert answer.status in (200, 403), answer

    await asyncio.gather(
        host.put_state(room_id, "m.room.power_levels", levels),
        while_allowed("PUT", "state/m.room.topic", {"topic": "while I can"}),
        while_allowed("POST", "ban", {"user_id": third.user_id}),
        third.put_own_name(room_id, "somebody"),
    )
    for speaker, listener in couple.both:
        await listener.until_has(room_id, await speaker.say(room_id, "that was it"))
    await have_the_same_state(host, guest, room_id)
    now = await guest.must("GET", f"{room_path(room_id)}/state/m.room.power_levels")
    assert now["users"][guest.user_id] == 0


async def test_who_leaves_and_comes_back_has_all_of_the_history(couple: Couple) -> None:
    """Meanwhile things are said, the topic changes and a message is redacted."""
    meeting = await couple.meet(5)
    host, guest, room_id = couple.host, couple.guest, meeting.room_id
    slip = await host.say(room_id, "a slip")
    await guest.until_has(room_id, slip)
    await guest.leave(room_id)
    await host.until_member(room_id, guest.user_id, "leave")
    for number in range(40):
        await host.say(room_id, f"meanwhile {number}")
    await host.put_state(room_id, "m.room.topic", {"topic": "meanwhile"})
    await host.redact(room_id, slip)
    await guest.join(room_id, host.server)
    last = await host.say(room_id, "back again")
    await guest.until_has(room_id, last)
    await have_the_same_state(host, guest, room_id)
    await have_the_same_history(host, guest, room_id)


async def test_an_alias_leads_to_the_room_from_the_other_server(couple: Couple) -> None:
    """It is resolved, and joined by; both servers then serve the other's alias."""
    host, guest = couple.host, couple.guest
    name = f"place-{secrets.token_hex(4)}"
    room_id = await host.create_room(couple.version, room_alias_name=name)
    alias = f"#{name}:{host.server}"
    found = await guest.must("GET", f"/directory/room/{quote(alias)}")
    assert found["room_id"] == room_id
    assert host.server in found["servers"]
    assert await guest.join(alias, host.server) == room_id
    await guest.until_in(room_id, "join")
    missing = await guest.call("GET", f"/directory/room/{quote('#no-' + alias[1:])}")
    assert (missing.status, missing.body["errcode"]) == (404, "M_NOT_FOUND")


async def test_an_upgraded_room_is_followed_to_the_new_one(couple: Couple) -> None:
    """The guest sees the tombstone and joins the room that it names."""
    meeting = await couple.meet(name="old and new")
    host, guest, room_id = couple.host, couple.guest, meeting.room_id
    said = await host.must("POST", f"{room_path(room_id)}/upgrade", {"new_version": "12"})
    replacement = said["replacement_room"]
    view = await guest.until_room(
        room_id, lambda one: one.content("m.room.tombstone"), "the tombstone"
    )
    assert view.content("m.room.tombstone")["replacement_room"] == replacement
    assert await guest.join(replacement, host.server) == replacement
    new = await guest.until_in(replacement, "join")
    assert new.content("m.room.create")["predecessor"]["room_id"] == room_id
    assert new.content("m.room.name") == {"name": "old and new"}
    await have_the_same_state(host, guest, replacement)
