"""Presence between a Synapse and a Freehold, in both directions."""

from __future__ import annotations

import pytest

from tests.interop.synapse.conftest import Enter, other
from tests.interop.synapse.person import JsonObject, Person, quote
from tests.interop.synapse.servers import SIDES, Side

WITH_PRESENCE = True

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),  # the first of them may have to install Synapse
]


async def put(person: Person, presence: str, status: str) -> None:
    """Set a user's presence."""
    body = {"presence": presence, "status_msg": status}
    await person.must("PUT", f"/presence/{quote(person.user_id)}/status", body)


async def until_seen(reader: Person, user_id: str, presence: str, status: str) -> JsonObject:
    """Sync until a user's presence came; return it."""

    def is_seen() -> bool:
        seen = reader.presence.get(user_id, {})
        return (seen.get("presence"), seen.get("status_msg")) == (presence, status)

    await reader.until(is_seen, f"{user_id} is {presence}, {status}")
    return reader.presence[user_id]


@pytest.mark.parametrize("side", SIDES)
async def test_a_user_sees_who_is_there_on_the_other_server(enter: Enter, side: Side) -> None:
    """From the join on: the states, the status message, the last activity."""
    shown, reader = await enter("shown", side), await enter("reader", other(side))
    room_id = await shown.create_room("10")
    await put(shown, "online", "before the join")
    await reader.join(room_id, shown.server)
    await put(shown, "online", "here")
    seen = await until_seen(reader, shown.user_id, "online", "here")
    assert seen["currently_active"] is True
    assert seen["last_active_ago"] >= 0
    path = f"/presence/{quote(shown.user_id)}/status"
    asked = await reader.must("GET", path)
    assert (asked["presence"], asked["status_msg"]) == ("online", "here")
    await put(shown, "unavailable", "away")
    await until_seen(reader, shown.user_id, "unavailable", "away")
    await put(shown, "offline", "gone")
    await until_seen(reader, shown.user_id, "offline", "gone")


async def test_a_newcomers_server_is_told_who_is_there(enter: Enter) -> None:
    """Without any change since: Freehold tells a Synapse that comes into the room."""
    shown, reader = await enter("there", "freehold"), await enter("newcomer", "synapse")
    room_id = await shown.create_room("10")
    await put(shown, "online", "I was here before")
    await reader.join(room_id, shown.server)
    await until_seen(reader, shown.user_id, "online", "I was here before")


async def test_a_stranger_sees_nobody(enter: Enter) -> None:
    """A user of the other server who shares no room."""
    for side in SIDES:
        shown, stranger = await enter("hidden", side), await enter("stranger", other(side))
        await put(shown, "online", "for friends")
        answer = await stranger.call("GET", f"/presence/{quote(shown.user_id)}/status")
        assert answer.status == 403
