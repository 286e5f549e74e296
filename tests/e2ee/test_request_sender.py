"""The sender of the machine's requests: saved first, one flush at a time, and nothing lost that got
no answer."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2ee.crypto.sealed import SealingKey
from e2ee.http import MatrixRefused, Unreachable
from e2ee.limits import REQUEST_ROUNDS_MAX
from e2ee.machine.machine import Machine
from e2ee.machine.rooms.room_key_sharing import Sharing
from e2ee.machine.sync_changes import SyncChanges
from e2ee.request_sender import RequestSender
from e2ee.store import Store
from tests.e2ee.device_parts import PICKLE_KEY
from tests.e2ee.keys_homeserver import KeysHomeserver
from tests.e2ee.record_store import RecordStore

JsonObject = dict[str, Any]
ALICE, BOB, ROOM = "@alice:hs.test", "@bob:hs.test", "!r:hs.test"
NOW_MS = 1_000
DEADLINE_S = 60


@pytest.fixture
def server() -> KeysHomeserver:
    """Returns a homeserver that has bob's keys."""
    server = KeysHomeserver()
    bob = Machine.create(RecordStore(), PICKLE_KEY, user_id=BOB, device_id="DEV")
    server.publish(bob)
    return server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Returns an empty store."""
    store = Store.open(tmp_path / "store", SealingKey(bytes(32)))
    yield store
    store.close()


@pytest.fixture
def machine(store: Store) -> Machine:
    """Returns alice's new device, not saved yet."""
    return Machine.create(store, PICKLE_KEY, user_id=ALICE, device_id="DEV")


@pytest.fixture
def sender(server: KeysHomeserver, store: Store, machine: Machine) -> RequestSender:
    """Returns the sender of alice's requests."""
    return RequestSender(server.api(), store, machine, lambda: NOW_MS)


def names(server: KeysHomeserver) -> list[str]:
    """Returns the kinds of the calls, in order."""
    return [path[1] if path[0] == "keys" else path[0] for path, _ in server.calls]


async def test_all_requests_are_made_and_acknowledged(
    server: KeysHomeserver, machine: Machine, sender: RequestSender
) -> None:
    """Those that follow from an answer too; a second flush has nothing to do."""
    machine.pin_encryption(ROOM)
    for expected in (Sharing.WAITING, Sharing.WAITING, Sharing.WAITING, Sharing.READY):
        assert machine.share_room_key(ROOM, frozenset({BOB}), NOW_MS) is expected
        await sender.flush()
    assert names(server) == ["upload", "query", "claim", "sendToDevice"]
    [to_bob] = server.made("sendToDevice", "m.room.encrypted")
    assert list(to_bob["messages"][BOB]) == ["DEV"]
    await sender.flush()
    assert len(server.calls) == 4


async def test_nothing_leaves_before_its_state_is_stored(
    server: KeysHomeserver, store: Store, machine: Machine, sender: RequestSender
) -> None:
    """A ratchet that goes back after a crash encrypts twice with one key, and a one-time key whose
    private half is lost costs the message that uses it."""
    seen: list[str] = []

    async def watch(path: list[str], body: JsonObject) -> None:
        assert machine.pending_changes.is_saved
        again = Machine.load(store, PICKLE_KEY)
        assert again is not None
        if path[0] == "sendToDevice":
            assert [request.request_id for request in again._outbox.waiting()] == [path[2]]
        if path[1] == "upload":
            saved = again._own.account.unpublished_one_time_keys().values()
            assert {key["key"] for key in body["one_time_keys"].values()} == {
                key.encoded for key in saved
            }
        seen.append(path[1])

    server.watch = watch
    machine.pin_encryption(ROOM)
    while machine.share_room_key(ROOM, frozenset({BOB}), NOW_MS) is Sharing.WAITING:
        await sender.flush()
    assert seen == ["upload", "query", "claim", "m.room.encrypted"]
    again = Machine.load(store, PICKLE_KEY)
    assert again is not None
    assert again._outbox.waiting() == ()


class FullDisk(Store):
    """A store that takes nothing."""

    def apply(self, changes: object) -> None:
        """Refuses."""
        raise OSError("no space left on device")


async def test_what_cant_be_stored_isnt_sent(
    server: KeysHomeserver, store: Store, machine: Machine, sender: RequestSender
) -> None:
    """It waits, and is sent once there is room."""
    full = RequestSender(
        server.api(), FullDisk(store._database, SealingKey(bytes(32))), machine, lambda: NOW_MS
    )
    with pytest.raises(OSError, match="no space"):
        await full.flush()
    assert server.calls == []
    await sender.flush()
    assert names(server) == ["upload", "query"]


async def test_two_flushes_make_each_request_once(
    server: KeysHomeserver, machine: Machine, sender: RequestSender
) -> None:
    """A second claim would burn a second key; a second query would race the first (I13)."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def watch(path: list[str], body: JsonObject) -> None:
        entered.set()
        await go_on.wait()

    server.watch = watch
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        flushes = [group.create_task(sender.flush()) for _ in range(3)]
        await entered.wait()
        for _ in range(10):  # each of the others has had its turns
            await asyncio.sleep(0)
        assert len(server.calls) == 1
        go_on.set()
    assert all(flush.done() for flush in flushes)
    assert names(server) == ["upload", "query"]


async def test_an_answer_that_never_ends_is_left_after_some_rounds(
    server: KeysHomeserver, machine: Machine, sender: RequestSender
) -> None:
    """A server whose every answer makes a new request of ours doesn't keep the client busy."""

    async def watch(path: list[str], body: JsonObject) -> None:
        if path[1] == "query":
            machine.receive_sync(
                SyncChanges(changed_users=(ALICE,), one_time_key_counts={"signed_curve25519": 50}),
                NOW_MS,
            )

    server.watch = watch
    await sender.flush()
    assert len(server.made("keys", "query")) == REQUEST_ROUNDS_MAX
    server.watch = server._look_on
    await sender.flush()
    assert len(server.made("keys", "query")) == REQUEST_ROUNDS_MAX + 1
    await sender.flush()
    assert len(server.made("keys", "query")) == REQUEST_ROUNDS_MAX + 1


@pytest.mark.parametrize(
    ("lost", "error"),
    [
        (Unreachable("gone"), Unreachable),
        (MatrixRefused(403, "M_FORBIDDEN", "", {}), MatrixRefused),
        (asyncio.CancelledError(), asyncio.CancelledError),
    ],
)
@pytest.mark.parametrize("kind", ["upload", "query", "claim", "m.room.encrypted"])
async def test_a_request_without_an_answer_is_made_again(
    server: KeysHomeserver,
    machine: Machine,
    sender: RequestSender,
    lost: BaseException,
    error: type[BaseException],
    kind: str,
) -> None:
    """Whatever became of it; one under a transaction ID keeps it, so that it arrives once."""
    failures = 0

    async def watch(path: list[str], body: JsonObject) -> None:
        nonlocal failures
        if path[1] == kind and not isinstance(lost, Unreachable):
            server.watch = server._look_on
            failures += 1
            raise lost
        if path[1] == kind and failures < 5:  # as often as one call is repeated
            failures += 1
            raise lost

    server.watch = watch
    machine.pin_encryption(ROOM)
    with pytest.raises(error):
        await share(machine, sender)
    await share(machine, sender)
    made = [(path, body) for path, body in server.calls if path[1] == kind]
    assert len(made) == failures + 1
    if kind != "claim":
        assert all(call == made[0] for call in made)
    assert len(server.made("sendToDevice")) == 1 + (failures if kind[0] == "m" else 0)


async def share(machine: Machine, sender: RequestSender) -> None:
    """Brings the room's key to bob."""
    async with asyncio.timeout(DEADLINE_S):
        while machine.share_room_key(ROOM, frozenset({BOB}), NOW_MS) is Sharing.WAITING:
            await sender.flush()


async def test_requests_after_a_failed_one_are_made_by_the_next_flush(
    server: KeysHomeserver, machine: Machine, sender: RequestSender
) -> None:
    """In their order."""

    async def watch(path: list[str], body: JsonObject) -> None:
        if path[1] == "upload":
            raise MatrixRefused(400, "M_UNKNOWN", "", {})

    server.watch = watch
    with pytest.raises(MatrixRefused):
        await sender.flush()
    assert names(server) == ["upload"]
    server.watch = server._look_on
    await sender.flush()
    assert names(server) == ["upload", "upload", "query"]


async def test_saving_without_changes_writes_nothing(
    store: Store, machine: Machine, sender: RequestSender
) -> None:
    """And with some, all of them at once."""
    sender.save()
    assert Machine.load(store, PICKLE_KEY) is not None
    assert machine.pending_changes.is_saved
    written = store._database.total_changes
    sender.save()
    assert store._database.total_changes == written
