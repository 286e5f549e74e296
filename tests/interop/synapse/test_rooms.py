"""Rooms that a Synapse and a Freehold share: each step in both directions, in several versions."""

from __future__ import annotations

import pytest

from tests.interop.synapse.conftest import Meeting

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),  # the first of them may have to install Synapse
]


async def test_both_servers_have_the_same_state_after_a_join(meeting: Meeting) -> None:
    """Each type and key is the same event on both."""
    of_host = await meeting.host.state_ids(meeting.room_id)
    assert await meeting.guest.state_ids(meeting.room_id) == of_host
    assert ("m.room.member", meeting.guest.user_id) in of_host


async def test_the_joiner_pages_back_over_all_that_was_said_before(meeting: Meeting) -> None:
    """All events since the room's creation, in the order of the server that made them."""
    of_host = [event["event_id"] for event in await meeting.host.history(meeting.room_id)]
    of_guest = [event["event_id"] for event in await meeting.guest.history(meeting.room_id)]
    assert [one for one in of_guest if one in meeting.first_words] == meeting.first_words
    assert of_guest == of_host


async def test_messages_go_both_ways(meeting: Meeting) -> None:
    """What is said is read on the other server, under the same event ID, with its content."""
    for speaker, listener in meeting.both:
        event_id = await speaker.say(meeting.room_id, "grüße 🎈 \u0007")
        event = await listener.until_has(meeting.room_id, event_id)
        assert event["content"] == {"msgtype": "m.text", "body": "grüße 🎈 \u0007"}
        assert event["sender"] == speaker.user_id
