"""One of the two servers is away for a while, in turn: what was said meanwhile arrives."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.interop.synapse.conftest import Couple, Enter, Meeting, other
from tests.interop.synapse.person import JsonObject, Person, histories
from tests.interop.synapse.published_keys import DeviceKeys, until_devices
from tests.interop.synapse.servers import SIDES, Pair, Side

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),  # the first of them may have to install Synapse
    pytest.mark.parametrize("away", SIDES, ids=lambda side: f"{side} is away"),
    pytest.mark.parametrize("version", ["10", "12"]),
]

MEANWHILE = 30


@pytest_asyncio.fixture(loop_scope="module")
async def meeting(pair: Pair, enter: Enter, away: Side, version: str) -> AsyncIterator[Meeting]:
    """Return a room whose host stays and whose guest's server will be away."""
    side = other(away)
    couple = Couple(version, side, await enter("host", side), await enter("guest", away))
    yield await couple.meet(5)
    await pair.start_missing()


def ids_of(history: list[JsonObject]) -> list[str]:
    """Return the event IDs of a history."""
    return [event["event_id"] for event in history]


async def note(speaker: Person, listener: Person, number: int) -> None:
    """Send a to-device message to all devices of a user."""
    path = f"/sendToDevice/org.example.note/{secrets.token_hex(8)}"
    await speaker.must("PUT", path, {"messages": {listener.user_id: {"*": {"number": number}}}})


async def test_what_was_said_meanwhile_arrives(pair: Pair, meeting: Meeting, away: Side) -> None:
    """Many messages, a new topic, a redaction, messages to devices, and a new device. The server
    that was away says something first: that is when Synapse tries again to reach it."""
    host, guest, room_id = meeting.host, meeting.guest, meeting.room_id
    await pair.stop(away)
    said = [await host.say(room_id, f"meanwhile {number}") for number in range(MEANWHILE)]
    await host.put_state(room_id, "m.room.topic", {"topic": "meanwhile"})
    await host.redact(room_id, said[3])
    for number in range(3):
        await note(host, guest, number)
    device = DeviceKeys(host)
    await device.publish()
    last = await host.say(room_id, "the last word")
    await pair.start(away)

    back = await guest.say(room_id, "back again")
    await host.until_has(room_id, back)
    await guest.until_has(room_id, last)
    await guest.until(lambda: len(guest.to_device) >= 3, "the messages to devices")
    assert [event["content"]["number"] for event in guest.to_device] == [0, 1, 2]
    await guest.until(lambda: host.user_id in guest.changed, "the new device")
    await until_devices(guest, host.user_id, {host.device_id: device.document})

    assert await guest.state_ids(room_id) == await host.state_ids(room_id)
    of_guest, of_host = await histories(guest, host, room_id)
    assert sorted(ids_of(of_guest)) == sorted(ids_of(of_host))
    assert [one for one in ids_of(of_guest) if one in said] == said
    redacted = next(event for event in of_guest if event["event_id"] == said[3])
    assert redacted["content"] == {}


async def test_who_was_kicked_meanwhile_learns_of_it(
    pair: Pair, meeting: Meeting, away: Side
) -> None:
    """The server that was away has no user left in the room when it comes back."""
    host, guest, room_id = meeting.host, meeting.guest, meeting.room_id
    await pair.stop(away)
    await host.say(room_id, "meanwhile")
    await host.act(room_id, "kick", guest.user_id, reason="silence")
    await pair.start(away)
    other_room = await guest.create_room("10")
    await host.join(other_room, guest.server)  # whereby the host's server knows that it is back
    view = await guest.until_in(room_id, "leave")
    assert view.content("m.room.member", guest.user_id).get("reason") == "silence"
