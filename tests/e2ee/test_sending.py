"""Sending into rooms: encrypted wherever encryption was ever seen, after the key, one after the
other, or not at all."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2ee.crypto.sealed import SealingKey
from e2ee.http import MatrixRefused
from e2ee.limits import CONTENT_BYTES_MAX, REQUEST_ROUNDS_MAX, SHARING_ROUNDS_MAX
from e2ee.machine.machine import Machine
from e2ee.machine.rooms.room_key_sharing import Sharing
from e2ee.machine.sync_changes import RoomChanges, SyncChanges
from e2ee.request_sender import RequestSender
from e2ee.rooms import ClientRooms
from e2ee.sending import ClientError, NotEncryptable, Sending
from e2ee.store import Store
from tests.e2ee.device_parts import PICKLE_KEY
from tests.e2ee.keys_homeserver import KeysHomeserver
from tests.e2ee.record_store import RecordStore

JsonObject = dict[str, Any]
ALICE, BOB, CAROL = "@alice:hs.test", "@bob:hs.test", "@carol:hs.test"
ROOM, OTHER_ROOM = "!r:hs.test", "!other:hs.test"
TEXT = {"msgtype": "m.text", "body": "a word"}
DEADLINE_S = 60


class Desk:
    """Alice's sending with what it needs, in rooms with bob, who has one device."""

    def __init__(self, store: Store) -> None:
        self.server = KeysHomeserver()
        self.machine = Machine.create(store, PICKLE_KEY, user_id=ALICE, device_id="DEV")
        self.rooms = ClientRooms(self.machine.pending_changes)
        self.store = store
        self.request_sender = RequestSender(self.server.api(), store, self.machine, lambda: 1_000)
        self.sending = Sending(self.server.api(), self.machine, self.rooms, self.request_sender)
        self.recipients = [self.enter(user_id) for user_id in (BOB, CAROL)]
        for room_id in (ROOM, OTHER_ROOM):
            self.rooms.take_state(room_id, "join", [member(ALICE), member(BOB)])

    def enter(self, user_id: str) -> Machine:
        """Publishes a device of another user."""
        machine = Machine.create(RecordStore(), PICKLE_KEY, user_id=user_id, device_id="DEV")
        self.server.publish(machine)
        return machine

    def sent(self, room_id: str = ROOM) -> list[str]:
        """Returns the types of the events sent into a room, in order."""
        return [p[3] for p, _ in self.server.calls if p[:3] == ["rooms", room_id, "send"]]

    def given_keys(self) -> list[str]:
        """Returns the users who were sent a room key."""
        made = self.server.made("sendToDevice", "m.room.encrypted")
        return [user_id for body in made for user_id in body["messages"]]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Returns alice's desk."""
    store = Store.open(tmp_path / "store", SealingKey(bytes(32)))
    yield Desk(store)
    store.close()


def member(user_id: str, membership: str = "join") -> JsonObject:
    """Returns a membership event."""
    content = {"membership": membership}
    return {"type": "m.room.member", "state_key": user_id, "content": content}


async def test_a_plain_room_gets_plain_messages(desk: Desk) -> None:
    """Of the type that was said, with the content that was given."""
    event_id = await desk.sending.send_message(ROOM, TEXT)
    [(path, body)] = desk.server.calls
    assert (path[:4], body) == (["rooms", ROOM, "send", "m.room.message"], TEXT)
    assert event_id == f"${path[4]}"


async def test_an_encrypted_room_gets_the_key_first(desk: Desk) -> None:
    """2: whoever gets a message before its key can't read it."""
    desk.machine.pin_encryption(ROOM)
    event_id = await desk.sending.send_message(ROOM, TEXT)
    kinds = [path[0] for path, _ in desk.server.calls]
    assert kinds[-2:] == ["sendToDevice", "rooms"]
    path, body = desk.server.calls[-1]
    assert path[3] == "m.room.encrypted"
    assert "a word" not in str(desk.server.calls)
    event = {"room_id": ROOM, "event_id": event_id, "sender": ALICE, "content": body}
    reading = desk.machine.decrypt({**event, "type": "m.room.encrypted"})
    assert getattr(reading, "content", None) == TEXT


@pytest.mark.parametrize("pinned_by", ["machine", "room store"])
async def test_what_was_ever_encrypted_gets_no_plaintext(desk: Desk, pinned_by: str) -> None:
    """P1: either of the two that remember is enough, whatever the server shows now."""
    assert not desk.sending.is_encrypted(ROOM)
    if pinned_by == "machine":
        desk.machine.pin_encryption(ROOM)
        await desk.sending.send_message(ROOM, TEXT)
        assert desk.sent() == ["m.room.encrypted"]
    else:  # as after the loss of the machine's record: there is no algorithm to encrypt with
        desk.rooms.pin_encryption(ROOM)
        with pytest.raises(NotEncryptable):
            await desk.sending.send_message(ROOM, TEXT)
        assert desk.sent() == []
    assert desk.sending.is_encrypted(ROOM)
    assert not desk.sending.is_encrypted(OTHER_ROOM)


async def test_an_unknown_algorithm_is_not_sent_to(desk: Desk) -> None:
    """P2: neither plain nor by Megolm; the first key request isn't made either."""
    desk.machine.see_room(RoomChanges(ROOM, encryption=({"algorithm": "m.strange"},)))
    with pytest.raises(NotEncryptable, match="algorithm"):
        await desk.sending.send_message(ROOM, TEXT)
    assert desk.server.calls == []


@pytest.mark.parametrize("membership", [None, "invite", "leave", "ban", "knock"])
async def test_only_a_joined_room_is_sent_to(desk: Desk, membership: str | None) -> None:
    """Nothing goes out, encrypted or not."""
    room_id = "!there:hs.test"
    desk.machine.pin_encryption(room_id)
    if membership is not None:
        desk.rooms.take_state(room_id, membership, [])
    with pytest.raises(ClientError, match="join it first"):
        await desk.sending.send_message(room_id, TEXT)
    assert desk.server.calls == []


async def test_a_message_has_a_limit(desk: Desk) -> None:
    """In bytes of JSON, so that it fits an event once it is encrypted."""
    frame = len('{"body":""}')
    await desk.sending.send_message(ROOM, {"body": "a" * (CONTENT_BYTES_MAX - frame)})
    for too_long in ("a" * (CONTENT_BYTES_MAX - frame + 1), "ä" * (CONTENT_BYTES_MAX // 2)):
        with pytest.raises(ClientError, match="too long"):
            await desk.sending.send_message(ROOM, {"body": too_long})
    assert len(desk.sent()) == 1


@pytest.mark.parametrize(
    ("visibility", "given"),
    [
        ("joined", [BOB]),
        ("shared", [BOB]),
        ("invited", [BOB, CAROL]),
        ("world_readable", [BOB, CAROL]),
    ],
)
async def test_invited_users_get_keys_where_they_may_read(
    desk: Desk, visibility: str, given: list[str]
) -> None:
    """M6: elsewhere an invite, which any member can send, hands out no key."""
    desk.machine.pin_encryption(ROOM)
    desk.machine.see_room(RoomChanges(ROOM, history_visibility=(visibility,)))
    desk.rooms.take_state(ROOM, "join", [member(CAROL, "invite")])
    await desk.sending.send_message(ROOM, TEXT)
    assert sorted(desk.given_keys()) == given


@pytest.mark.parametrize("membership", ["leave", "ban", "knock", "strange"])
async def test_no_one_else_gets_keys(desk: Desk, membership: str) -> None:
    """Even where anyone may read."""
    desk.machine.pin_encryption(ROOM)
    desk.machine.see_room(RoomChanges(ROOM, history_visibility=("world_readable",)))
    desk.rooms.take_state(ROOM, "join", [member(CAROL, membership)])
    await desk.sending.send_message(ROOM, TEXT)
    assert desk.given_keys() == [BOB]


async def test_messages_of_a_room_go_one_after_the_other(desk: Desk) -> None:
    """In the order in which they were said; another room doesn't wait for them."""
    first, go_on = asyncio.Event(), asyncio.Event()

    async def watch(path: list[str], body: JsonObject) -> None:
        if path[1] == ROOM:
            first.set()
            await go_on.wait()

    desk.server.watch = watch
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(desk.sending.send_message(ROOM, {"n": number}))
        await first.wait()
        await desk.sending.send_message(OTHER_ROOM, TEXT)
        assert desk.sent(OTHER_ROOM) == ["m.room.message"]
        assert len(desk.sent()) == 1
        go_on.set()
    assert desk.server.made("rooms", ROOM) == [{"n": n} for n in range(3)]


async def test_each_message_has_its_own_transaction_id(desk: Desk) -> None:
    """The same words said twice are two messages; after a refusal the room goes on."""

    async def refuse(path: list[str], body: JsonObject) -> None:
        raise MatrixRefused(403, "M_FORBIDDEN", "", {})

    desk.server.watch = refuse
    with pytest.raises(MatrixRefused):
        await desk.sending.send_message(ROOM, TEXT)
    desk.server.watch = desk.server._look_on
    for _ in range(2):
        await desk.sending.send_message(ROOM, TEXT)
    assert len({path[4] for path, _ in desk.server.calls}) == 3


async def test_a_ratchet_is_stored_before_its_message_goes(desk: Desk) -> None:
    """A client that crashes just then doesn't encrypt another text with the same key."""
    desk.machine.pin_encryption(ROOM)
    indexes: list[int] = []

    async def watch(path: list[str], body: JsonObject) -> None:
        if path[0] != "rooms":
            return
        again = Machine.load(desk.store, PICKLE_KEY)
        assert again is not None
        assert again.share_room_key(ROOM, frozenset({BOB}), 1_000) is Sharing.READY
        unsaved = again.encrypt(ROOM, "m.room.message", TEXT)
        again.pending_changes.save(lambda changes: None)
        reading = again.decrypt(
            {
                "type": "m.room.encrypted",
                "room_id": ROOM,
                "event_id": "$next",
                "sender": ALICE,
                "content": again.pending_changes.release(unsaved),
            }
        )
        indexes.append(getattr(reading, "message_index", -1))

    desk.server.watch = watch
    await desk.sending.send_message(ROOM, TEXT)
    await desk.sending.send_message(ROOM, TEXT)
    assert indexes == [1, 2]


async def test_a_key_that_never_arrives_ends_in_an_error(desk: Desk) -> None:
    """A server that says "changed" to each answer keeps nobody waiting, and gets no message."""
    changed = SyncChanges(changed_users=(BOB,), one_time_key_counts={"signed_curve25519": 50})

    async def watch(path: list[str], body: JsonObject) -> None:
        if path == ["keys", "query"]:
            desk.machine.receive_sync(changed, 1_000)

    desk.server.watch = watch
    desk.machine.pin_encryption(ROOM)
    with pytest.raises(NotEncryptable, match="try again"):
        await desk.sending.send_message(ROOM, TEXT)
    assert len(desk.server.made("keys", "query")) == SHARING_ROUNDS_MAX * REQUEST_ROUNDS_MAX
    assert desk.sent() == []
    assert desk.given_keys() == []
    desk.server.watch = desk.server._look_on
    await desk.sending.send_message(ROOM, TEXT)
    assert desk.sent() == ["m.room.encrypted"]


async def test_who_joins_while_the_key_is_on_its_way_gets_it_too(desk: Desk) -> None:
    """The recipients are those of the moment in which the message is encrypted."""

    async def watch(path: list[str], body: JsonObject) -> None:
        if path[0] == "sendToDevice":
            desk.rooms.take_state(ROOM, "join", [member(CAROL)])

    desk.server.watch = watch
    desk.machine.pin_encryption(ROOM)
    await desk.sending.send_message(ROOM, TEXT)
    assert desk.given_keys() == [BOB, CAROL]
