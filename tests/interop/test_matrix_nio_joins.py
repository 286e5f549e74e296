"""What is said in an encrypted room as soon as a join is seen is read by who joins.

The room is of hs2, where our client is; who joins is matrix-nio's, on hs1. hs2 has the join before
hs1 has stored it, so keys are claimed from a server that doesn't know yet that its user is in.
nio tries a message once: the key must be there first.
"""

import asyncio
import secrets
from typing import Any

import pytest
from nio import EnableEncryptionBuilder, MegolmEvent, RoomPreset

from e2ee.client import Client
from tests.interop.conftest import NioEntry, OurEntry
from tests.interop.nio_person import DEADLINE_S, NioPerson, good

pytestmark = [pytest.mark.processes]

SAID = "said at once"


async def until_member(client: Client, room_id: str, user_id: str) -> None:
    """Syncs our client until a user is in a room."""
    await client.until(lambda _: user_id in client.members(room_id), deadline_s=DEADLINE_S)


async def say_when_seen(
    olga: Client, nina: NioPerson, room_id: str, join: asyncio.Task[Any]
) -> None:
    """Speaks once our client sees the join; nio's side must read it."""
    await until_member(olga, room_id, nina.user_id)
    await olga.send_text(room_id, SAID)
    good(await join)
    await nina.until_read(room_id, SAID)
    assert nina.read(room_id) == [(olga.user_id, SAID, True)]
    assert not nina.of_kind(room_id, MegolmEvent)


async def room_of(host: NioPerson, member: Client, *state: dict[str, Any]) -> tuple[str, str]:
    """An encrypted room of the host's server with our client in it; its ID and an alias."""
    name = f"door-{secrets.token_hex(4)}"
    made = await host.client.room_create(
        alias=name, initial_state=[EnableEncryptionBuilder().as_dict(), *state]
    )
    room_id = str(good(made).room_id)
    good(await host.client.room_invite(room_id, member.user_id))
    await member.join(room_id)
    return room_id, f"#{name}:hs2"


def join_rules(rule: str, **content: object) -> dict[str, Any]:
    """A room's join rules, for its initial state."""
    content = {"join_rule": rule, **content}
    return {"type": "m.room.join_rules", "state_key": "", "content": content}


async def test_after_an_invite(nio: NioEntry, ours: OurEntry) -> None:
    """The join follows an invite; our client is in the room alone before."""
    olga, nina = await ours("olga", "hs2"), await nio("nina")
    room_id = await olga.create_room(name="sealed", invite=[nina.user_id])
    await nina.until_invited(room_id)
    join = asyncio.create_task(nina.client.join(room_id))
    await say_when_seen(olga, nina, room_id, join)


async def test_after_a_knock(nio: NioEntry, ours: OurEntry) -> None:
    """The host lets the one who knocks in; the word is our client's."""
    olga, nina, nils = await ours("olga", "hs2"), await nio("nina"), await nio("nils", "hs2")
    room_id, alias = await room_of(nils, olga, join_rules("knock"))
    good(await nina.client.room_knock(alias))
    good(await nils.client.room_invite(room_id, nina.user_id))
    await nina.until_invited(room_id)
    join = asyncio.create_task(nina.client.join(room_id))
    await say_when_seen(olga, nina, room_id, join)


async def test_in_a_public_room(nio: NioEntry, ours: OurEntry) -> None:
    """Nobody invites: before the join the servers share no room."""
    olga, nina, nils = await ours("olga", "hs2"), await nio("nina"), await nio("nils", "hs2")
    room_id, alias = await room_of(nils, olga, join_rules("public"))
    join = asyncio.create_task(nina.client.join(alias))
    await say_when_seen(olga, nina, room_id, join)


async def test_in_a_restricted_room(nio: NioEntry, ours: OurEntry) -> None:
    """The join is allowed, and signed by hs2, for being in another room."""
    olga, nina, nils = await ours("olga", "hs2"), await nio("nina"), await nio("nils", "hs2")
    name = f"lobby-{secrets.token_hex(4)}"
    made = await nils.client.room_create(alias=name, preset=RoomPreset.public_chat)
    good(await nina.client.join(f"#{name}:hs2"))
    allow = [{"type": "m.room_membership", "room_id": good(made).room_id}]
    room_id, alias = await room_of(nils, olga, join_rules("restricted", allow=allow))
    join = asyncio.create_task(nina.client.join(alias))
    await say_when_seen(olga, nina, room_id, join)


async def test_a_word_before_the_join_costs_none_after_it(nio: NioEntry, ours: OurEntry) -> None:
    """For who is invited only fallback keys are given out, and nio has none: the next claim is
    made once there is a join."""
    olga, nina, nils = await ours("olga", "hs2"), await nio("nina"), await nio("nils", "hs2")
    visibility = {"type": "m.room.history_visibility", "state_key": ""}
    content = {"history_visibility": "invited"}
    room_id, _ = await room_of(nils, olga, {**visibility, "content": content})
    await olga.invite(room_id, nina.user_id)
    await nina.until_invited(room_id)

    def is_invited(client: Client) -> bool:
        room = client.room(room_id)
        return room is not None and nina.user_id in room.with_membership("invite")

    await olga.until(is_invited, deadline_s=DEADLINE_S)
    await olga.send_text(room_id, "said too early")
    join = asyncio.create_task(nina.client.join(room_id))
    await until_member(olga, room_id, nina.user_id)
    await olga.send_text(room_id, SAID)
    good(await join)
    await nina.until_read(room_id, SAID)
    assert nina.bodies(room_id) == [SAID]
