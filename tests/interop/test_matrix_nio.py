"""matrix-nio, a client by other people, on our servers: beside our own client and against it."""

import pytest
from nio import EnableEncryptionBuilder, MegolmEvent

from e2ee.client import Client
from tests.interop.conftest import NioEntry, OurEntry
from tests.interop.nio_person import DEADLINE_S, NioPerson, good

pytestmark = [pytest.mark.processes]


def bodies(client: Client, room_id: str) -> list[str]:
    """What our client can read, in order."""
    return [message.body for message in client.timeline(room_id) if message.is_readable]


async def until_read(client: Client, room_id: str, body: str) -> None:
    """Syncs our client until it reads a text."""
    await client.until(lambda _: body in bodies(client, room_id), deadline_s=DEADLINE_S)


async def nio_joins(person: NioPerson, room_id: str) -> None:
    """Joins and waits until the room is there."""
    good(await person.client.join(room_id))
    await person.until(lambda: room_id in person.client.rooms)


async def test_texts_pass_both_ways_in_an_unencrypted_room(nio: NioEntry, ours: OurEntry) -> None:
    """Each reads the other's words."""
    nina, olga = await nio("nina"), await ours("olga")
    room_id = good(await nina.client.room_create(invite=[olga.user_id])).room_id
    await olga.join(room_id)
    await nina.until(lambda: room_id in nina.client.rooms)
    await nina.say(room_id, "from nio")
    await until_read(olga, room_id, "from nio")
    await olga.send_text(room_id, "from us")
    await nina.until(lambda: "from us" in nina.bodies(room_id))
    assert nina.read(room_id) == [
        (nina.user_id, "from nio", False),
        (olga.user_id, "from us", False),
    ]
    await until_read(olga, room_id, "from us")
    assert [message.encrypted for message in olga.timeline(room_id)] == [False, False]


async def test_megolm_passes_both_ways_in_a_room_of_ours(nio: NioEntry, ours: OurEntry) -> None:
    """Keys are queried, claimed and shared by each side; each reads the other's words."""
    olga, nina = await ours("olga"), await nio("nina")
    room_id = await olga.create_room(name="sealed", invite=[nina.user_id])
    await nio_joins(nina, room_id)
    await olga.until(lambda _: nina.user_id in olga.members(room_id), deadline_s=DEADLINE_S)
    await olga.send_text(room_id, "sealed by us")
    await nina.until(lambda: "sealed by us" in nina.bodies(room_id))
    await nina.say(room_id, "sealed by nio")
    await until_read(olga, room_id, "sealed by nio")
    assert all(encrypted for _, _, encrypted in nina.read(room_id))
    assert all(message.encrypted for message in olga.timeline(room_id))
    assert bodies(olga, room_id) == ["sealed by us", "sealed by nio"]


async def test_megolm_passes_both_ways_in_a_room_of_nio(nio: NioEntry, ours: OurEntry) -> None:
    """As before, with the room, its encryption and the first word by nio."""
    nina, olga = await nio("nina"), await ours("olga")
    room_id = good(
        await nina.client.room_create(
            invite=[olga.user_id], initial_state=[EnableEncryptionBuilder().as_dict()]
        )
    ).room_id
    await olga.join(room_id)
    await nina.until(lambda: olga.user_id in room_users(nina, room_id))
    await nina.say(room_id, "first")
    await until_read(olga, room_id, "first")
    await olga.send_text(room_id, "second")
    await nina.until(lambda: "second" in nina.bodies(room_id))
    assert [encrypted for _, _, encrypted in nina.read(room_id)] == [True, True]
    assert not nina.of_kind(room_id, MegolmEvent)


def room_users(person: NioPerson, room_id: str) -> set[str]:
    """The members that nio knows of, invited ones not counted."""
    room = person.client.rooms.get(room_id)
    return set(room.users) - set(room.invited_users) if room else set()
