"""Attacks by the operator of the homeserver (and by members), each seen to succeed without its
defence.

The IDs are those of the threat list: K (key movement), P (plaintext and state), I (identity), S
(files). Each test first takes one defence away, by a patch that exists only here, and asserts that
the attack works; then it asserts that the shipped code refuses it while honest traffic goes on.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from e2ee import timeline
from e2ee.client import Client, Message, NotEncryptable
from e2ee.crypto.primitives import PickleKey
from e2ee.crypto.ratchets import InboundGroupSession, OutboundGroupSession
from e2ee.machine.alarms import Alarms, NoticeKind
from e2ee.machine.devices.device_keys import Device
from e2ee.machine.machine import Machine
from e2ee.machine.olm import olm_channels
from e2ee.machine.olm.olm_channels import OlmChannels
from e2ee.machine.olm.olm_payload import OlmEvent
from e2ee.machine.requests import UploadKeys
from e2ee.machine.rooms.room_key_sharing import Sharing
from e2ee.machine.rooms.room_keys import RoomKeys
from e2ee.machine.sync_changes import SyncChanges
from e2ee.sending import Sending
from tests.e2ee.fake_homeserver import FakeHomeserver
from tests.e2ee.record_store import RecordStore

Enter = Callable[[str], Awaitable[Client]]
JsonObject = dict[str, Any]
MEGOLM = "m.megolm.v1.aes-sha2"


def bodies(client: Client, room_id: str) -> list[str]:
    """Returns the messages that the client attributes to members."""
    return [m.body for m in client.timeline(room_id) if m.is_readable]


def refused(client: Client, room_id: str) -> list[Message]:
    """Returns the messages that it shows as refused or waiting."""
    return [m for m in client.timeline(room_id) if not m.is_readable]


async def pair(enter: Enter) -> tuple[Client, Client, str]:
    """Alice and bob in an encrypted room, each having said something."""
    alice, bob = await enter("alice"), await enter("bob")
    room_id = await alice.create_room(name="Pair", invite=[bob.user_id])
    await bob.join(room_id)
    await alice.until(lambda c: bob.user_id in c.members(room_id), deadline_s=5)
    await alice.send_text(room_id, "from alice")
    await bob.send_text(room_id, "from bob")
    for client in (alice, bob):
        await client.until(lambda c: len(bodies(c, room_id)) == 2, deadline_s=5)
    return alice, bob, room_id


async def still_talks(alice: Client, bob: Client, room_id: str) -> None:
    """Honest traffic goes on after the attack."""
    await bob.send_text(room_id, "still here")
    await alice.until(lambda c: "still here" in bodies(c, room_id), deadline_s=5)


def of_bob(server: FakeHomeserver, bob: Client, room_id: str) -> JsonObject:
    """Bob's encrypted event."""
    events = server.events(room_id, "m.room.encrypted")
    return next(dict(e) for e in events if e["sender"] == bob.user_id)


async def test_k1_a_replayed_message_is_refused(
    enter: Enter, server: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ciphertext under another event ID isn't said again."""
    alice, bob, room_id = await pair(enter)
    ghost = of_bob(server, bob, room_id) | {"event_id": "$ghost1"}
    with monkeypatch.context() as off:
        off.setattr(RoomKeys, "_is_replay", lambda *_: False)
        server.append(room_id, ghost)
        await alice.sync_once()
        assert bodies(alice, room_id).count("from bob") == 2  # the attack
    server.append(room_id, ghost | {"event_id": "$ghost2"})
    server.append(room_id, ghost | {"event_id": "$ghost3", "origin_server_ts": 5})
    await bob.sync_once()
    assert bodies(bob, room_id).count("from bob") == 1
    assert len(refused(bob, room_id)) == 3
    assert "seen before" in refused(bob, room_id)[0].status.reason
    await still_talks(alice, bob, room_id)


async def test_k1_replay_is_refused_after_a_restart_and_the_event_itself_reads_again(
    enter: Enter, server: FakeHomeserver, tmp_path: Any
) -> None:
    """The table of indexes is kept; the first event owns its index."""
    alice, bob, room_id = await pair(enter)
    await alice.close()
    server.append(room_id, of_bob(server, bob, room_id) | {"event_id": "$ghost"})
    again = await Client.restore(
        store_path=tmp_path / "alice", store_key=bytes(range(32)), base_url=server.transport()
    )
    await again.sync_once()
    assert bodies(again, room_id).count("from bob") == 1
    assert len(refused(again, room_id)) == 1
    await again.close()


async def test_k2_a_message_moved_to_another_room_is_refused(
    enter: Enter, server: FakeHomeserver
) -> None:
    """The ratchet alone would read it there."""
    alice, bob, room_id = await pair(enter)
    other = await alice.create_room(name="Other", invite=[bob.user_id])
    await bob.join(other)
    moved = of_bob(server, bob, room_id) | {"event_id": "$moved"}
    session_id = moved["content"]["session_id"]
    keys = alice.machine._room_keys
    record = keys._load(session_id, bob.user_id)
    assert record is not None
    plaintext, _ = keys._unpickle(record).decrypt(moved["content"]["ciphertext"])
    assert b"from bob" in plaintext  # the attack
    server.append(other, moved)
    await alice.sync_once()
    assert bodies(alice, other) == []
    assert "another room" in refused(alice, other)[0].status.reason
    await still_talks(alice, bob, room_id)


async def test_k3_a_message_under_another_sender_is_refused(
    enter: Enter, server: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session speaks for its owner only; `sender_key` and `device_id` outside prove nothing."""
    alice, bob, room_id = await pair(enter)
    forged = of_bob(server, bob, room_id) | {"sender": alice.user_id, "event_id": "$forged1"}
    real = RoomKeys._load
    with monkeypatch.context() as off:
        off.setattr(RoomKeys, "_load", lambda self, sid, owner: real(self, sid, bob.user_id))
        off.setattr(RoomKeys, "_is_replay", lambda *_: False)
        server.append(room_id, forged)
        await alice.sync_once()
        senders = {m.sender for m in alice.timeline(room_id) if m.body == "from bob"}
        assert alice.user_id in senders  # the attack
    content = forged["content"] | {
        "sender_key": alice.machine.device.curve25519,
        "device_id": alice.device_id,
    }
    server.append(room_id, forged | {"event_id": "$forged2", "content": content})
    await bob.sync_once()
    assert bodies(bob, room_id) == ["from alice", "from bob"]
    assert all("another user" in m.status.reason for m in refused(bob, room_id))
    await still_talks(alice, bob, room_id)


async def test_k4_deprecated_fields_of_an_event_change_nothing(
    enter: Enter, server: FakeHomeserver
) -> None:
    """Random `sender_key` and `device_id` are as good as right ones."""
    alice, bob, room_id = await pair(enter)

    def rewrite(user: str, path: str, answer: JsonObject) -> None:
        for room in answer.get("rooms", {}).get("join", {}).values():
            for event in room["timeline"]["events"]:
                event["content"] |= {"sender_key": "x", "device_id": ["y"]}

    server.on_answer = rewrite
    await bob.send_text(room_id, "rewritten")
    await alice.sync_once()
    assert bodies(alice, room_id)[-1] == "rewritten"


def forge_session(room_id: str, sender: str) -> tuple[JsonObject, JsonObject]:
    """Returns a session of the operator's: its `m.room_key` content, and a message event by
    `sender`."""
    session = OutboundGroupSession.new()
    key = {
        "algorithm": MEGOLM,
        "room_id": room_id,
        "session_id": session.session_id,
        "session_key": session.session_key(),
    }
    text = f'{{"type":"m.room.message","content":{{"body":"FORGED"}},"room_id":"{room_id}"}}'
    content = {
        "algorithm": MEGOLM,
        "session_id": session.session_id,
        "ciphertext": session.encrypt(text.encode()),
    }
    return key, {"type": "m.room.encrypted", "sender": sender, "content": content}


@pytest.mark.parametrize("kind", ["m.room_key", "m.forwarded_room_key", "m.secret.send"])
async def test_k5_keys_in_the_clear_are_dropped(
    enter: Enter, server: FakeHomeserver, kind: str
) -> None:
    """A room key counts only if it came over Olm."""
    alice, bob, room_id = await pair(enter)
    key, message = forge_session(room_id, bob.user_id)
    believed = OlmEvent("m.room_key", key, bob.user_id, bob.machine.device.curve25519, "", None)
    open_minded = await enter("trusting")  # takes the key as if the check of the channel were off
    open_minded.machine._room_keys.receive(believed, Alarms())
    reading = open_minded.machine.decrypt(message | {"room_id": room_id, "event_id": "$1"})
    assert getattr(reading, "content", {}).get("body") == "FORGED"  # the attack
    for event in (
        {"type": kind, "sender": bob.user_id, "content": key},
        {"type": "m.room.encrypted", "sender": bob.user_id, "content": message["content"]},
    ):
        server.push_to_device(alice.user_id, alice.device_id, event)
    server.append(room_id, message)
    await alice.sync_once()
    assert "FORGED" not in bodies(alice, room_id)
    kinds = [notice.kind for notice in alice.machine.take_notices()]
    assert NoticeKind.UNENCRYPTED_SECRET in kinds
    assert NoticeKind.OLM_REFUSED in kinds  # the Megolm envelope
    await still_talks(alice, bob, room_id)


async def test_k6_unrequested_forwarded_keys_are_dropped(
    enter: Enter, server: FakeHomeserver
) -> None:
    """Even over Olm: mallory can't speak for bob by forwarding a key of her own."""
    alice, bob, room_id = await pair(enter)
    key, message = forge_session(room_id, bob.user_id)
    device = alice.machine.device
    channels = bob.machine._channels
    sealed = channels.encrypt(device, "m.forwarded_room_key", key)
    event = {"type": "m.room.encrypted", "sender": bob.user_id, "content": sealed}
    server.push_to_device(alice.user_id, alice.device_id, event)
    server.append(room_id, message)
    await alice.sync_once()
    assert "FORGED" not in bodies(alice, room_id)
    kinds = [notice.kind for notice in alice.machine.take_notices()]
    assert NoticeKind.UNEXPECTED_SECRET in kinds


async def test_k8_a_conflicting_copy_of_a_session_is_dropped(
    enter: Enter, server: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first copy stays; one that starts earlier on the same ratchet is merged."""
    alice, bob, room_id = await pair(enter)
    await bob.send_text(room_id, "second")
    keys, alarms = alice.machine._room_keys, Alarms()
    session_id = of_bob(server, bob, room_id)["content"]["session_id"]
    record = keys._load(session_id, bob.user_id)
    assert record is not None
    exported = keys._unpickle(record).export_at(0)
    assert exported is not None
    from e2ee.crypto.primitives import decode_base64, encode_base64

    raw = bytearray(decode_base64(exported))
    raw[40] ^= 1  # within the ratchet
    # m.room_key must be signed; an import, which isn't, plays a forged signature here
    monkeypatch.setattr(InboundGroupSession, "from_session_key", InboundGroupSession.from_exported)
    content = {"algorithm": MEGOLM, "room_id": room_id, "session_id": session_id}
    bad = content | {"session_key": encode_base64(bytes(raw))}
    sender_key = bob.machine.device.curve25519
    event = OlmEvent("m.room_key", bad, bob.user_id, sender_key, "", bob.machine.device)
    assert keys.receive(event, alarms) is None
    assert [notice.kind for notice in alarms.take()] == [NoticeKind.SESSION_CONFLICT]
    with monkeypatch.context() as off:  # without the merge rule, the conflicting copy wins
        off.setattr(RoomKeys, "_load", lambda *_: None)
        assert keys.receive(event, alarms) == (room_id, session_id)  # the attack
    keys._store(record)
    monkeypatch.undo()
    await alice.sync_once()
    assert bodies(alice, room_id)[-1] == "second"


async def test_k8_another_members_copy_doesnt_take_a_sessions_name(
    enter: Enter, server: FakeHomeserver
) -> None:
    """Eve sends alice bob's own key first: bob is still heard, and eve not as bob."""
    alice, bob, room_id = await pair(enter)
    session = OutboundGroupSession.new()
    content = {
        "algorithm": MEGOLM,
        "room_id": room_id,
        "session_id": session.session_id,
        "session_key": session.session_key(),
    }
    keys, alarms = alice.machine._room_keys, Alarms()
    eve = OlmEvent("m.room_key", content, "@eve:hs.test", "A" * 43, "A" * 43, None)
    own = bob.machine.device
    honest = OlmEvent("m.room_key", content, bob.user_id, own.curve25519, own.ed25519, own)
    assert keys.receive(eve, alarms) is not None
    assert keys.receive(honest, alarms) is not None
    text = f'{{"type":"m.room.message","content":{{"body":"hi"}},"room_id":"{room_id}"}}'
    sealed = {
        "algorithm": MEGOLM,
        "session_id": session.session_id,
        "ciphertext": session.encrypt(text.encode()),
    }
    server.append(room_id, {"type": "m.room.encrypted", "sender": bob.user_id, "content": sealed})
    await alice.sync_once()
    assert bodies(alice, room_id)[-1] == "hi"


async def count_sent(client: Client, server: FakeHomeserver, rounds: int, each: int) -> int:
    """Returns how many to-device requests a flood of bogus messages makes the client send."""
    before = len(server.calls)
    bob = next(user for user in server.device_keys if user.startswith("@bob"))
    device_id = next(iter(server.device_keys[bob]))
    for _ in range(rounds):
        for _ in range(each):
            event = bogus_event(client, server, bob, device_id)
            server.push_to_device(client.user_id, client.device_id, event)
        await client.sync_once()
    calls = server.calls[before:]
    return sum(1 for user, c in calls if user == client.user_id and "sendToDevice" in c.path)


def bogus_event(client: Client, server: FakeHomeserver, user_id: str, device_id: str) -> JsonObject:
    """Returns an Olm event that no session can read, said to be of a device."""
    keys = server.device_keys[user_id][device_id]["keys"]
    ciphertext = {client.machine.device.curve25519: {"type": 1, "body": "AwogJv0h" * 8}}
    content = {
        "algorithm": "m.olm.v1.curve25519-aes-sha2",
        "sender_key": keys[f"curve25519:{device_id}"],
        "ciphertext": ciphertext,
    }
    return {"type": "m.room.encrypted", "sender": user_id, "content": content}


async def test_k10_a_flood_of_broken_messages_makes_one_new_channel(
    enter: Enter, server: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One `m.dummy` an hour for each device; without the limit one for each sync."""
    alice, bob, room_id = await pair(enter)
    with monkeypatch.context() as off:
        off.setattr(OlmChannels, "may_replace", lambda *_: True)
        assert await count_sent(alice, server, rounds=5, each=1) == 5  # the attack
    assert await count_sent(alice, server, rounds=5, each=200) == 1
    await still_talks(alice, bob, room_id)


async def test_k10_a_broken_channel_is_mended(enter: Enter, server: FakeHomeserver) -> None:
    """Alice lost her sessions; after bob's unreadable message a new channel comes up by itself."""
    alice, bob, room_id = await pair(enter)
    pending_changes = alice.machine.pending_changes
    pending_changes.remove("olm", bob.machine.device.curve25519)
    bob.machine.end_session(room_id)
    await bob.send_text(room_id, "lost")
    await alice.sync_once()
    assert "lost" not in bodies(alice, room_id)
    await bob.sync_once()  # takes alice's new channel
    bob.machine.end_session(room_id)
    await bob.send_text(room_id, "mended")
    await alice.sync_once()
    assert "mended" in bodies(alice, room_id)


async def test_k11_a_withheld_notice_is_a_hint_that_a_key_overrides(
    enter: Enter, server: FakeHomeserver
) -> None:
    """A plain `m.room_key.withheld` by the operator blocks nothing."""
    alice, bob, room_id = await pair(enter)
    bob.machine.end_session(room_id)
    queue = (alice.user_id, alice.device_id)
    await bob.send_text(room_id, "real")
    held, server.to_device[queue] = server.to_device[queue], []
    session_id = server.events(room_id, "m.room.encrypted")[-1]["content"]["session_id"]
    content = {"room_id": room_id, "session_id": session_id, "code": "m.blacklisted"}
    server.push_to_device(
        *queue, {"type": "m.room_key.withheld", "sender": bob.user_id, "content": content}
    )
    await alice.sync_once()
    assert "m.blacklisted" in refused(alice, room_id)[-1].status.reason
    for _, event in held:
        server.push_to_device(*queue, event)
    await alice.sync_once()
    assert bodies(alice, room_id)[-1] == "real"


def without_encryption(user: str, path: str, answer: JsonObject) -> None:
    """The operator hides `m.room.encryption` everywhere."""
    for room in answer.get("rooms", {}).get("join", {}).values():
        for part in ("state", "timeline"):
            events = room[part]["events"]
            room[part]["events"] = [e for e in events if e["type"] != "m.room.encryption"]


async def test_p1_encryption_cant_be_removed(
    enter: Enter, server: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden, emptied or replaced: what is sent is ciphertext."""
    alice, bob, room_id = await pair(enter)
    with monkeypatch.context() as off:  # a client that believes what the server shows now
        off.setattr(Sending, "is_encrypted", lambda *_: False)
        await alice.send_text(room_id, "PLAIN")
        assert server.events(room_id, "m.room.message")[0]["content"]["body"] == "PLAIN"
    for content in (
        {},
        {"algorithm": "none"},
        {"algorithm": MEGOLM, "rotation_period_msgs": 10**9},
    ):
        server.state(room_id, bob.user_id, "m.room.encryption", content)
    server.on_answer = without_encryption
    alice.machine.pending_changes.remove(
        "client sync", ""
    )  # the server makes her sync from the start
    await alice.sync_once()
    await alice.send_text(room_id, "secret")
    assert len(server.events(room_id, "m.room.message")) == 1
    assert alice.machine.room(room_id).rotation_messages == 100
    await bob.until(lambda c: "secret" in bodies(c, room_id), deadline_s=5)


async def test_p1_a_room_made_encrypted_never_starts_plain(
    enter: Enter, server: FakeHomeserver
) -> None:
    """The server takes `initial_state` away: what we made encrypted is encrypted."""
    alice = await enter("alice")
    server.on_answer = without_encryption
    room_id = await alice.create_room(name="Private")
    await alice.send_text(room_id, "secret")
    assert server.events(room_id, "m.room.message") == []


async def test_p1_an_unknown_algorithm_is_not_sent_to(enter: Enter, server: FakeHomeserver) -> None:
    """Encrypted in a way we don't know: an error, not plaintext."""
    alice = await enter("alice")
    room_id = await alice.create_room(name="Odd", encrypted=False)
    server.state(room_id, alice.user_id, "m.room.encryption", {"algorithm": "x.unknown"})
    await alice.sync_once()
    with pytest.raises(NotEncryptable):
        await alice.send_text(room_id, "secret")
    assert server.events(room_id, "m.room.message") == []


async def test_p2_rotation_only_becomes_stricter(enter: Enter, server: FakeHomeserver) -> None:
    """A sweep of values: none lets a session live longer than it did."""
    alice = await enter("alice")
    room_id = await alice.create_room(name="Room")
    for value in (2**53 - 1, 0, -1, True, "many", None, 50, 70):
        fields = {"rotation_period_ms": value, "rotation_period_msgs": value}
        content = {"algorithm": MEGOLM, **fields}
        before = alice.machine.room(room_id)
        server.state(room_id, alice.user_id, "m.room.encryption", content)
        await alice.sync_once()
        after = alice.machine.room(room_id)
        assert 1 <= after.rotation_messages <= before.rotation_messages <= 100
        assert 60_000 <= after.rotation_ms <= before.rotation_ms <= 7 * 24 * 3600 * 1000


async def test_p3_plaintext_in_an_encrypted_room_is_nobodys_words(
    enter: Enter, server: FakeHomeserver
) -> None:
    """Shown as refused, without its text."""
    alice, bob, room_id = await pair(enter)
    content = {"msgtype": "m.text", "body": "FORGED"}
    server.append(room_id, {"type": "m.room.message", "sender": bob.user_id, "content": content})
    await alice.sync_once()
    events = alice._client_rooms.events(room_id)
    naive = timeline.build_messages(events, alice._syncing.read, None)
    assert "FORGED" in [m.body for m in naive if m.is_readable]  # the attack
    [message] = refused(alice, room_id)
    assert message.body == ""
    assert "FORGED" not in repr(alice.timeline(room_id))
    await still_talks(alice, bob, room_id)


async def test_p4_a_plaintext_edit_changes_nothing(
    enter: Enter, server: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not when the forger places it before the room's encryption."""
    alice, bob, room_id = await pair(enter)
    target = of_bob(server, bob, room_id)["event_id"]
    content = {
        "msgtype": "m.text",
        "body": "* FORGED",
        "m.new_content": {"msgtype": "m.text", "body": "FORGED"},
        "m.relates_to": {"rel_type": "m.replace", "event_id": target},
    }
    server.append(room_id, {"type": "m.room.message", "sender": bob.user_id, "content": content})
    await alice.sync_once()

    def naive(assembly: Any, event: JsonObject, content: JsonObject, *, is_late: bool) -> None:
        message = timeline._message(
            event, encrypted=True, status=timeline.READABLE, content=content
        )
        assembly.add(message, timeline._relation(content))

    with monkeypatch.context() as off:
        off.setattr(timeline, "_add_plain", naive)
        assert "FORGED" in bodies(alice, room_id)  # the attack
    assert bodies(alice, room_id) == ["from alice", "from bob"]
    early = timeline.build_messages(alice._client_rooms.events(room_id), alice._syncing.read, 10**6)
    assert "FORGED" not in [m.body for m in early]


async def test_p4_an_edit_by_another_member_changes_nothing(
    enter: Enter, server: FakeHomeserver
) -> None:
    """Encrypted, but not by the author."""
    alice, bob, room_id = await pair(enter)
    target = of_bob(server, bob, room_id)["event_id"]
    await alice.edit(room_id, target, "alice's words")
    await bob.sync_once()
    assert bodies(bob, room_id) == ["from alice", "from bob"]


async def test_p5_a_rewired_relation_is_refused(
    enter: Enter, server: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator turns an edit of one message into an edit of another."""
    alice, bob, room_id = await pair(enter)
    first = await bob.send_text(room_id, "first")
    second = await bob.send_text(room_id, "second")
    await bob.edit(room_id, first, "first, better")
    edit = server.events(room_id, "m.room.encrypted")[-1]
    edit["content"]["m.relates_to"]["event_id"] = second
    await alice.sync_once()
    assert bodies(alice, room_id)[-2:] == ["first", "second"]
    real = timeline._relation
    with monkeypatch.context() as off:  # a client that reads the outer relation only
        off.setattr(timeline, "_relation", lambda c: real(c) if "ciphertext" in c else None)
        assert bodies(alice, room_id)[-2:] == ["first", "first, better"]  # the attack


async def test_i6_new_keys_under_an_old_device_id_get_nothing(
    enter: Enter, server: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator makes keys of its own for bob's device, and would read the next session."""
    alice, bob, room_id = await pair(enter)
    evil = Machine.create(
        RecordStore(), PickleKey.random(), user_id=bob.user_id, device_id=bob.device_id
    )
    unsaved = evil.outgoing_requests(0)
    evil.pending_changes.save(lambda changes: None)
    upload = next(r for r in evil.pending_changes.release(unsaved) if isinstance(r, UploadKeys))
    who = (bob.user_id, bob.device_id)
    honest_keys = server.device_keys[bob.user_id][bob.device_id]
    honest_one_time = server.one_time_keys[who]
    server.device_keys[bob.user_id][bob.device_id] = upload.body["device_keys"]
    server.one_time_keys[who] = dict(upload.body["one_time_keys"])
    server.mark_list_changed(bob.user_id)
    with monkeypatch.context() as off:
        off.setattr(Device, "has_keys_of", lambda *_: True)
        await alice.sync_once()
        await alice.send_text(room_id, "SECRET")
        taken = tuple(event for _, event in server.to_device[who])
        outcome = evil.receive_sync(SyncChanges(to_device=taken), 0)
        assert {room for room, _ in outcome.new_keys} == {room_id}  # the attack
    server.device_keys[bob.user_id][bob.device_id] = honest_keys
    carol = await enter("carol")  # pins the honest keys, then sees the others
    other = await carol.create_room(name="Other", invite=[bob.user_id])
    server.one_time_keys[who] = honest_one_time
    await bob.join(other)
    await carol.until(lambda c: bob.user_id in c.members(other), deadline_s=5)
    await carol.send_text(other, "one")
    await bob.sync_once()
    server.device_keys[bob.user_id][bob.device_id] = upload.body["device_keys"]
    server.mark_list_changed(bob.user_id)
    await carol.sync_once()
    carol.machine.end_session(other)
    server.to_device[who] = []
    await carol.send_text(other, "two")
    taken = tuple(event for _, event in server.to_device[who])
    assert not evil.receive_sync(SyncChanges(to_device=taken), 0).new_keys
    kinds = [notice.kind for notice in carol.machine.take_notices()]
    assert NoticeKind.DEVICE_KEYS_CHANGED in kinds
    await bob.until(lambda c: bodies(c, other) == ["one", "two"], deadline_s=5)


@pytest.mark.parametrize("how", ["unsigned", "by another device", "altered", "none"])
async def test_i11_one_time_keys_that_the_device_didnt_sign_open_nothing(
    enter: Enter, server: FakeHomeserver, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """No room key goes out on a channel that the operator's key opened; bob is told why, once."""
    alice, bob, carol = await enter("alice"), await enter("bob"), await enter("carol")
    room_id = await alice.create_room(name="Room", invite=[bob.user_id])
    await bob.join(room_id)
    await alice.until(lambda c: bob.user_id in c.members(room_id), deadline_s=5)
    foreign = server.one_time_keys[carol.user_id, carol.device_id]

    def claim(user: str, path: str, answer: JsonObject) -> JsonObject | None:
        if path != "keys/claim":
            return None
        name, key = next(iter(foreign.items()))
        bad: dict[str, JsonObject] = {
            "unsigned": {"curve25519:AAAA": key["key"]},
            "by another device": {name: key},
            "altered": {
                n: k | {"key": key["key"]}
                for n, k in answer["one_time_keys"][bob.user_id][bob.device_id].items()
            },
            "none": {},
        }
        return {"one_time_keys": {bob.user_id: {bob.device_id: bad[how]}}}

    server.on_answer = claim
    if how in ("by another device", "altered"):
        with monkeypatch.context() as off:
            off.setattr(olm_channels, "check_signature", lambda *_: None)
            alice.machine.share_room_key(room_id, frozenset({bob.user_id}), 0)
            await alice._request_sender.flush()
            alice.machine.share_room_key(room_id, frozenset({bob.user_id}), 0)
            await alice._request_sender.flush()
            [device_of_bob] = alice.machine.devices_of(bob.user_id)
            assert alice.machine._channels.of(device_of_bob).sessions  # the attack
            alice.machine.pending_changes.remove("olm", device_of_bob.curve25519)
            alice.machine.end_session(room_id)
            alice._request_sender.save()
    server.to_device.clear()
    await alice.send_text(room_id, "unread")
    await alice.send_text(room_id, "unread too")
    await alice.sync_once()
    to_bob = [event["type"] for _, event in server.to_device[bob.user_id, bob.device_id]]
    assert to_bob == ["m.room_key.withheld"]


async def test_an_answer_that_comes_out_of_order_is_ignored(enter: Enter) -> None:
    """I13: the older of two answers doesn't win, and a change meanwhile isn't forgotten."""
    alice, bob, _ = await pair(enter)
    lists = alice.machine._lists
    from e2ee.machine.requests import QueryKeys

    old, new = QueryKeys("old", (bob.user_id,)), QueryKeys("new", (bob.user_id,))
    lists.mark_changed([bob.user_id])
    lists.begin(old)
    lists.mark_changed([bob.user_id])  # while in flight
    assert lists.due(0) == []  # one at a time
    lists.receive(old, {"device_keys": {bob.user_id: {}}}, 0)
    assert lists.is_waiting(bob.user_id, 0)  # still outdated
    lists.begin(new)
    honest = {"device_keys": {bob.user_id: {bob.device_id: bob.machine.device.signed_json}}}
    lists.receive(new, honest, 0)
    lists.receive(old, {"device_keys": {bob.user_id: {}}}, 0)
    assert [d.device_id for d in alice.machine.devices_of(bob.user_id)] == [bob.device_id]
    assert not lists.is_waiting(bob.user_id, 0)


async def test_m8_a_gap_that_may_hide_a_leave_ends_the_session(
    enter: Enter, server: FakeHomeserver
) -> None:
    """A member event other than join in a limited sync counts as having joined and left."""
    alice, bob, room_id = await pair(enter)
    carol = await enter("carol")
    first = alice.machine.session_id(room_id)
    assert first is not None
    await alice.invite(room_id, carol.user_id)
    server.timeline_limit = 2
    for _ in range(4):
        await bob.send_text(room_id, "x")
    await alice.sync_once()
    assert alice.machine.session_id(room_id) is None


async def test_m7_a_changed_history_visibility_ends_the_session(
    enter: Enter, server: FakeHomeserver
) -> None:
    """Only where it changes what later members may have."""
    alice, _, room_id = await pair(enter)
    for value, rotates in (("world_readable", False), ("joined", True), ("invited", False)):
        await alice.send_text(room_id, "x")
        before = alice.machine.session_id(room_id)
        content = {"history_visibility": value}
        server.state(room_id, alice.user_id, "m.room.history_visibility", content)
        await alice.sync_once()
        assert (alice.machine.session_id(room_id) is None) is rotates
        assert before is not None


async def test_what_isnt_saved_isnt_sent(enter: Enter) -> None:
    """A ratchet's product can't be taken before its state is saved."""
    alice, bob, room_id = await pair(enter)
    recipients = frozenset({bob.user_id})
    assert alice.machine.share_room_key(room_id, recipients, 10**13) is Sharing.WAITING
    unsaved = alice.machine.outgoing_requests(10**13)
    with pytest.raises(AssertionError, match="saved"):
        alice.machine.pending_changes.release(unsaved)
    alice._request_sender.save()
    assert alice.machine.pending_changes.release(unsaved)
