"""Rooms whose counts are compared, and what is said in them."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from federation.events.ids import RoomId, UserId
from homeserver import limits
from tests.homeserver.room_world import BOB
from tests.homeserver.sync_world import SyncWorld


async def shared_room(syncs: SyncWorld, *users: UserId) -> RoomId:
    """A public room of Alice's that users are in."""
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.join(room_id, *users)
    return room_id


async def in_thread(syncs: SyncWorld, user: UserId, room_id: str, root: str) -> str:
    """Answers in a thread, and mentions Bob."""
    content = {
        "msgtype": "m.text",
        "body": "answer",
        "m.mentions": {"user_ids": [BOB]},
        "m.relates_to": {"rel_type": "m.thread", "event_id": root},
    }
    reply = await syncs.world.send(user, room_id, content, transaction=quote(root))
    return str(reply.body["event_id"])


def never_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is evaluated or stored while nobody asks for it."""
    for name in ("PUSH_PAUSE_S", "PUSH_STORE_S"):
        monkeypatch.setattr(limits, name, 3_600.0)
