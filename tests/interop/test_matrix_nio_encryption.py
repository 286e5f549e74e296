"""matrix-nio and our own client read each other in encrypted rooms, on one server and on two.

nio's Olm and Megolm are vodozemac's, as ours are: this shows the protocol around the ratchets. An
independent ratchet is in `tests/e2ee/test_libolm_compatibility.py` and `test_mautrix.py`.
"""

import asyncio

import pytest
from nio import EnableEncryptionBuilder, MegolmEvent, RedactionEvent, TypingNoticeEvent

from e2ee.client import Client, StatusKind
from tests.interop.conftest import NioEntry, OurEntry
from tests.interop.nio_person import DEADLINE_S, NioPerson, good

pytestmark = [pytest.mark.processes]

both_places = pytest.mark.parametrize("place", ["hs1", "hs2"], ids=["one server", "two servers"])


def bodies(client: Client, room_id: str) -> list[str]:
    """What our client can read, in order."""
    return [message.body for message in client.timeline(room_id) if message.is_readable]


def unread(client: Client, room_id: str) -> int:
    """How many messages our client has no key for."""
    waiting = StatusKind.WAITING_FOR_KEY
    return sum(message.status.kind is waiting for message in client.timeline(room_id))


async def until_read(client: Client, room_id: str, body: str) -> None:
    """Syncs our client until it reads a text."""
    await client.until(lambda _: body in bodies(client, room_id), deadline_s=DEADLINE_S)


async def until_member(client: Client, room_id: str, user_id: str, *, is_in: bool = True) -> None:
    """Syncs our client until a user is in a room, or out."""
    await client.until(
        lambda _: (user_id in client.members(room_id)) is is_in, deadline_s=DEADLINE_S
    )


def nio_members(person: NioPerson, room_id: str) -> set[str]:
    """The members that nio knows of, invited ones not counted."""
    room = person.client.rooms.get(room_id)
    return set(room.users) - set(room.invited_users) if room else set()


async def until_nio_sees(person: NioPerson, room_id: str, user_id: str) -> None:
    """Syncs nio until it knows of a member."""
    await person.until(lambda: user_id in nio_members(person, room_id))


async def sealed_room(host: Client, *guests: NioPerson) -> str:
    """An encrypted room of ours that nio's people joined; all know of each other."""
    room_id = await host.create_room(name="sealed", invite=[one.user_id for one in guests])
    for guest in guests:
        await guest.until_invited(room_id)
        good(await guest.client.join(room_id))
        await until_nio_sees(guest, room_id, host.user_id)
        await until_member(host, room_id, guest.user_id)
    return room_id


@both_places
async def test_megolm_passes_both_ways_in_a_room_of_ours(
    nio: NioEntry, ours: OurEntry, place: str
) -> None:
    """Keys are queried, claimed and shared by each side; each reads the other's words."""
    olga, nina = await ours("olga", place), await nio("nina")
    room_id = await sealed_room(olga, nina)
    await olga.send_text(room_id, "sealed by us")
    await nina.until_read(room_id, "sealed by us")
    await nina.say(room_id, "sealed by nio")
    await until_read(olga, room_id, "sealed by nio")
    await olga.send_text(room_id, "sealed by us again")
    await nina.until_read(room_id, "sealed by us again")
    assert nina.read(room_id) == [
        (olga.user_id, "sealed by us", True),
        (nina.user_id, "sealed by nio", True),
        (olga.user_id, "sealed by us again", True),
    ]
    assert not nina.of_kind(room_id, MegolmEvent)
    await until_read(olga, room_id, "sealed by us again")
    assert bodies(olga, room_id) == ["sealed by us", "sealed by nio", "sealed by us again"]
    assert all(message.encrypted for message in olga.timeline(room_id))


@both_places
async def test_megolm_passes_both_ways_in_a_room_of_nio(
    nio: NioEntry, ours: OurEntry, place: str
) -> None:
    """As before, with the room, its encryption and the first word by nio."""
    nina, olga = await nio("nina"), await ours("olga", place)
    sealed = [EnableEncryptionBuilder().as_dict()]
    made = await nina.client.room_create(invite=[olga.user_id], initial_state=sealed)
    room_id = good(made).room_id
    await olga.join(room_id, via=["hs1"])
    await until_nio_sees(nina, room_id, olga.user_id)
    await nina.say(room_id, "first")
    await until_read(olga, room_id, "first")
    await olga.send_text(room_id, "second")
    await nina.until_read(room_id, "second")
    assert [encrypted for _, _, encrypted in nina.read(room_id)] == [True, True]
    assert not nina.of_kind(room_id, MegolmEvent)


async def test_encryption_that_is_turned_on_later_holds_from_then_on(
    nio: NioEntry, ours: OurEntry
) -> None:
    """nio turns it on in a room with history; the plain words before stay readable."""
    nina, olga = await nio("nina"), await ours("olga", "hs2")
    room_id = good(await nina.client.room_create(invite=[olga.user_id])).room_id
    await olga.join(room_id, via=["hs1"])
    await until_nio_sees(nina, room_id, olga.user_id)
    await nina.say(room_id, "in the open")
    content = EnableEncryptionBuilder().as_dict()["content"]
    good(await nina.client.room_put_state(room_id, "m.room.encryption", content))
    await nina.until(lambda: nina.client.rooms[room_id].encrypted)
    await olga.until(lambda _: olga.is_encrypted(room_id), deadline_s=DEADLINE_S)
    await olga.send_text(room_id, "behind doors")
    await nina.until_read(room_id, "behind doors")
    await nina.say(room_id, "behind doors too")
    await until_read(olga, room_id, "behind doors too")
    assert [(text, encrypted) for _, text, encrypted in nina.read(room_id)] == [
        ("in the open", False),
        ("behind doors", True),
    ]
    assert bodies(olga, room_id) == ["in the open", "behind doors", "behind doors too"]


@both_places
async def test_a_new_device_of_ours_gets_the_next_messages_of_nio(
    nio: NioEntry, ours: OurEntry, place: str
) -> None:
    """nio is told of the changed device list, asks, and shares with the new device from then on."""
    olga, nina = await ours("olga", place), await nio("nina")
    room_id = await sealed_room(olga, nina)
    await nina.say(room_id, "before the new device")
    await until_read(olga, room_id, "before the new device")
    again = await ours("olga", place, again=olga)
    await nina.until(lambda: again.device_id in nio_devices(nina, olga.user_id))
    await nina.say(room_id, "for both devices")
    await until_read(again, room_id, "for both devices")
    await until_read(olga, room_id, "for both devices")
    assert "before the new device" not in bodies(again, room_id)
    await again.send_text(room_id, "from the new device")
    await nina.until_read(room_id, "from the new device")
    await until_read(olga, room_id, "from the new device")


@both_places
async def test_a_new_device_of_nio_gets_our_next_messages(
    nio: NioEntry, ours: OurEntry, place: str
) -> None:
    """The other way round; what was said before stays closed to it."""
    olga, nina = await ours("olga", place), await nio("nina")
    room_id = await sealed_room(olga, nina)
    await olga.send_text(room_id, "before the new device")
    await nina.until(lambda: nina.bodies(room_id))
    again = await nio("nina", again=nina)
    await olga.until(
        lambda _: again.client.device_id in our_devices(olga, nina.user_id), deadline_s=DEADLINE_S
    )
    await olga.send_text(room_id, "for both devices")
    await again.until(lambda: again.bodies(room_id))
    assert again.bodies(room_id) == ["for both devices"]
    assert len(again.of_kind(room_id, MegolmEvent)) == 1
    await nina.until_read(room_id, "for both devices")


@both_places
async def test_who_was_kicked_reads_nothing_more(nio: NioEntry, ours: OurEntry, place: str) -> None:
    """Each side begins a new session when a member goes."""
    olga = await ours("olga", place)
    nina, nils = await nio("nina"), await nio("nils")
    sealed = [EnableEncryptionBuilder().as_dict()]
    invite = [olga.user_id, nils.user_id]
    made = await nina.client.room_create(invite=invite, initial_state=sealed)
    room_id = good(made).room_id
    await olga.join(room_id, via=["hs1"])
    good(await nils.client.join(room_id))
    await until_member(olga, room_id, nils.user_id)
    for user_id in invite:
        await until_nio_sees(nina, room_id, user_id)
    await olga.send_text(room_id, "to all")
    await nina.say(room_id, "to all of you")
    await nina.until(lambda: len(nina.bodies(room_id)) == 2)
    await nils.until(lambda: len(nils.bodies(room_id)) == 2)
    good(await nina.client.room_kick(room_id, nils.user_id))
    await until_member(olga, room_id, nils.user_id, is_in=False)
    await nina.until(lambda: nils.user_id not in nio_members(nina, room_id))
    await olga.send_text(room_id, "without nils")
    await nina.say(room_id, "without nils too")
    await nina.until(lambda: len(nina.bodies(room_id)) == 4)
    await until_read(olga, room_id, "without nils too")
    sessions = [message.session_id for message in olga.timeline(room_id)]
    assert len(set(sessions)) == 4
    await nils.sync()
    held = {session.id for session in nils.client.olm.inbound_group_store}
    assert [session in held for session in sessions] == [True, True, False, False]


@both_places
async def test_both_may_speak_first_at_once(nio: NioEntry, ours: OurEntry, place: str) -> None:
    """Each claims a key of the other and begins an Olm session; both go on with what they have."""
    olga, nina = await ours("olga", place), await nio("nina")
    room_id = await sealed_room(olga, nina)
    await asyncio.gather(olga.send_text(room_id, "ours 0"), nina.say(room_id, "nio 0"))
    for turn in (1, 2):
        await nina.until_read(room_id, f"ours {turn - 1}")
        await until_read(olga, room_id, f"nio {turn - 1}")
        olga.machine.end_session(room_id)  # so that the next key goes through Olm again
        nina.client.invalidate_outbound_session(room_id)
        await asyncio.gather(
            olga.send_text(room_id, f"ours {turn}"), nina.say(room_id, f"nio {turn}")
        )
    await nina.until_read(room_id, "ours 2")
    await until_read(olga, room_id, "nio 2")
    assert len({message.session_id for message in olga.timeline(room_id)}) == 6
    assert not nina.of_kind(room_id, MegolmEvent)
    assert unread(olga, room_id) == 0


@both_places
async def test_a_device_of_ours_that_logs_out_is_gone_for_nio(
    nio: NioEntry, ours: OurEntry, place: str
) -> None:
    """nio hears of it and shares nothing more with it."""
    olga, nina = await ours("olga", place), await nio("nina")
    again = await ours("olga", place, again=olga)
    room_id = await sealed_room(olga, nina)
    await nina.until(lambda: again.device_id in nio_devices(nina, olga.user_id))
    await nina.say(room_id, "for both")
    await until_read(again, room_id, "for both")
    await again.logout()
    await nina.until(lambda: again.device_id not in nio_devices(nina, olga.user_id))
    await nina.say(room_id, "for one")
    await until_read(olga, room_id, "for one")
    assert nio_devices(nina, olga.user_id) == {olga.device_id}


async def test_one_time_keys_are_used_up_and_replenished(nio: NioEntry, ours: OurEntry) -> None:
    """Each claim takes a key of nio's; nio sees the count and uploads more."""
    nina = await nio("nina")
    await nina.sync()
    full = nina.last_sync.device_key_count.signed_curve25519
    assert full >= 50
    for number in range(2):
        olga = await ours(f"olga{number}")
        room_id = await sealed_room(olga, nina)
        await olga.send_text(room_id, "hello")
        await nina.until_read(room_id, "hello")
    counts = set()
    for _ in range(3):
        counts.add((await nina.sync()).device_key_count.signed_curve25519)
    assert counts <= {full - 2, full}
    answer = await nina.client.keys_claim({nina.user_id: [nina.client.device_id]})
    assert list(good(answer).one_time_keys) == [nina.user_id]


async def test_what_was_said_while_nio_was_offline_is_read_later(
    nio: NioEntry, ours: OurEntry
) -> None:
    """More than a timeline's length: the rest is paged for, and decrypts too."""
    olga, nina, nils = await ours("olga", "hs2"), await nio("nina"), await nio("nils")
    room_id = await sealed_room(olga, nina, nils)
    await nina.sync()
    said = [f"number {number}" for number in range(25)]
    for body in said:
        await olga.send_text(room_id, body)
    await nils.until(lambda: nils.bodies(room_id)[-1:] == said[-1:])  # hs1 has them all
    news = await nina.sync(sync_filter={"room": {"timeline": {"limit": 10}}})
    timeline = news.rooms.join[room_id].timeline
    assert (timeline.limited, nina.bodies(room_id)) == (True, said[15:])
    page = good(await nina.client.room_messages(room_id, timeline.prev_batch, limit=15))
    assert [event.body for event in page.chunk] == said[14::-1]
    assert all(event.decrypted for event in page.chunk)


async def test_edits_redactions_and_typing_cross_servers(nio: NioEntry, ours: OurEntry) -> None:
    """In an encrypted room of two servers."""
    olga, nina = await ours("olga", "hs2"), await nio("nina")
    room_id = await sealed_room(olga, nina)
    event_id = await olga.send_text(room_id, "helo")
    edit_id = await olga.edit(room_id, event_id, "hello")
    await nina.until(lambda: len(nina.bodies(room_id)) == 2)
    edited = nina.of_kind(room_id, object)[-1].source["content"]
    assert edited["m.new_content"]["body"] == "hello"
    assert edited["m.relates_to"] == {"rel_type": "m.replace", "event_id": event_id}
    slip = await nina.say(room_id, "slip of the tongue")
    await until_read(olga, room_id, "slip of the tongue")
    good(await nina.client.room_redact(room_id, slip))
    await olga.until(
        lambda _: "slip of the tongue" not in bodies(olga, room_id), deadline_s=DEADLINE_S
    )
    assert bodies(olga, room_id) == ["hello"]
    await nina.until(lambda: nina.of_kind(room_id, RedactionEvent))
    nils = await nio("nils", "hs2")
    await olga.invite(room_id, nils.user_id)
    await nils.until_invited(room_id)
    good(await nils.client.join(room_id))
    await until_nio_sees(nina, room_id, nils.user_id)
    good(await nils.client.room_typing(room_id))
    await nina.until(lambda: nina.client.rooms[room_id].typing_users == [nils.user_id])
    good(await nils.client.update_receipt_marker(room_id, edit_id, thread_id=None))
    await nina.until(lambda: nils.user_id in nina.client.rooms[room_id].read_receipts)
    assert nina.client.rooms[room_id].read_receipts[nils.user_id].event_id == edit_id
    assert nina.of_kind(room_id, TypingNoticeEvent)


def nio_devices(person: NioPerson, user_id: str) -> set[str]:
    """The devices of a user that nio knows."""
    return {device.id for device in person.client.device_store.active_user_devices(user_id)}


def our_devices(client: Client, user_id: str) -> set[str]:
    """The devices of a user that our client knows."""
    return {device.device_id for device in client.machine.devices_of(user_id)}
