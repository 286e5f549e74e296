"""The client's main story, against a homeserver in memory."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from e2ee.client import Client, ClientError, StatusKind
from e2ee.http import Call, Unreachable
from e2ee.limits import (
    JOIN_WAIT_S_MAX,
    SYNC_PAUSE_S_MAX,
    SYNC_PAUSE_S_MIN,
    SYNC_POLL_MS,
    SYNC_WAIT_MS,
)
from tests.e2ee.fake_homeserver import FakeHomeserver

KEY = bytes(range(32))
Enter = Callable[[str], Awaitable[Client]]


def bodies(client: Client, room_id: str) -> list[str]:
    """Returns what the client can read, in order."""
    return [message.body for message in client.timeline(room_id) if message.is_readable]


async def gather_in_room(alice: Client, *others: Client) -> str:
    """Returns a room by alice, joined by all."""
    invited = [other.user_id for other in others]
    room_id = await alice.create_room(name="Story", invite=invited, version="12")
    for other in others:
        await other.join(room_id)
    everyone = {alice.user_id, *invited}
    for client in (alice, *others):
        await client.until(lambda c: c.members(room_id) == everyone, deadline_s=5)
    return room_id


async def test_everyone_reads_what_everyone_says(enter: Enter) -> None:
    """Three users; nothing in the clear on the server."""
    alice, bob, carol = await enter("alice"), await enter("bob"), await enter("carol")
    room_id = await gather_in_room(alice, bob, carol)
    for client in (alice, bob, carol):
        await client.send_text(room_id, f"I am {client.user_id}")
    for client in (alice, bob, carol):
        await client.until(lambda c: len(bodies(c, room_id)) == 3, deadline_s=5)
        assert bodies(client, room_id) == [f"I am {c.user_id}" for c in (alice, bob, carol)]
        assert all(m.encrypted and not m.edited for m in client.timeline(room_id))


async def test_nothing_that_was_said_reaches_the_server(
    enter: Enter, server: FakeHomeserver
) -> None:
    """Every byte that the clients sent is searched; the same search finds what isn't secret."""
    alice, bob = await enter("alice"), await enter("bob")
    room_id = await gather_in_room(alice, bob)
    event_id = await alice.send_text(room_id, "CANARY-one")
    await alice.edit(room_id, event_id, "CANARY-two")
    sent = repr([call.body for _, call in server.calls])
    assert "m.megolm.v1.aes-sha2" in sent
    assert "CANARY" not in sent


async def test_an_edit_replaces_the_text(enter: Enter) -> None:
    """Readers see the new text, marked as edited."""
    alice, bob = await enter("alice"), await enter("bob")
    room_id = await gather_in_room(alice, bob)
    event_id = await bob.send_text(room_id, "teh")
    await bob.edit(room_id, event_id, "the")
    await alice.until(lambda c: bodies(c, room_id) == ["the"], deadline_s=5)
    [message] = alice.timeline(room_id)
    assert message.edited
    assert message.event_id == event_id


async def test_who_was_away_reads_everything_later(enter: Enter, server: FakeHomeserver) -> None:
    """More was said than one sync carries: the gap is closed, in order."""
    alice, carol = await enter("alice"), await enter("carol")
    room_id = await gather_in_room(alice, carol)
    server.timeline_limit = 5
    said = [f"message {n}" for n in range(130)]  # more than one session, more than one page
    for text in said:
        await alice.send_text(room_id, text)
    await carol.sync_once()
    assert bodies(carol, room_id) == said


async def test_a_new_member_reads_nothing_older(enter: Enter) -> None:
    """Neither what was said before the invite nor before the join."""
    alice, bob, mallory = await enter("alice"), await enter("bob"), await enter("mallory")
    room_id = await gather_in_room(alice, bob)
    await alice.send_text(room_id, "before")
    await alice.invite(room_id, mallory.user_id)
    await alice.sync_once()
    await alice.send_text(room_id, "invited")
    await mallory.join(room_id)
    await alice.until(lambda c: mallory.user_id in c.members(room_id), deadline_s=5)
    await alice.send_text(room_id, "after")
    await mallory.until(lambda c: bodies(c, room_id) == ["after"], deadline_s=5)
    waiting = [m for m in mallory.timeline(room_id) if not m.is_readable]
    assert [m.status.kind for m in waiting] == [StatusKind.WAITING_FOR_KEY] * 2
    assert len({m.session_id for m in mallory.timeline(room_id)}) == 1  # the same session


async def test_after_someone_left_a_new_session_starts(
    enter: Enter, server: FakeHomeserver
) -> None:
    """And no key of it goes to who left, nor to his device by name."""
    alice, bob, carol = await enter("alice"), await enter("bob"), await enter("carol")
    room_id = await gather_in_room(alice, bob, carol)
    await alice.send_text(room_id, "with bob")
    first = alice.machine.session_id(room_id)
    await bob.sync_once()
    await bob.leave(room_id)
    await alice.until(lambda c: bob.user_id not in c.members(room_id), deadline_s=5)
    calls_before = len(server.calls)
    await alice.send_text(room_id, "without bob")
    assert alice.machine.session_id(room_id) != first
    assert bob.user_id not in repr([call.body for _, call in server.calls[calls_before:]])
    await carol.until(lambda c: "without bob" in bodies(c, room_id), deadline_s=5)
    await bob.sync_once()
    assert "without bob" not in bodies(bob, room_id)


async def test_a_restored_client_goes_on(
    enter: Enter, server: FakeHomeserver, tmp_path: Path
) -> None:
    """Same device, same ratchets: it reads what came before and after, and is read."""
    alice, bob = await enter("alice"), await enter("bob")
    room_id = await gather_in_room(alice, bob)
    await alice.send_text(room_id, "one")
    await bob.sync_once()
    await bob.close()
    await alice.send_text(room_id, "two")
    again = await Client.restore(
        store_path=tmp_path / "bob", store_key=KEY, base_url=server.transport()
    )
    assert again.device_id == bob.device_id
    await again.until(lambda c: bodies(c, room_id) == ["one", "two"], deadline_s=5)
    await again.send_text(room_id, "three")
    await alice.until(lambda c: bodies(c, room_id) == ["one", "two", "three"], deadline_s=5)
    await again.close()


async def test_a_key_that_comes_late_opens_old_messages(
    enter: Enter, server: FakeHomeserver
) -> None:
    """The message waits, and is read once its key is there."""
    alice, bob = await enter("alice"), await enter("bob")
    room_id = await gather_in_room(alice, bob)
    held: list[tuple[int, dict[str, object]]] = []
    await alice.send_text(room_id, "patience")
    queue = (bob.user_id, bob.device_id)
    held, server.to_device[queue] = server.to_device[queue], []
    await bob.sync_once()
    [message] = bob.timeline(room_id)
    assert message.status.kind is StatusKind.WAITING_FOR_KEY
    for _, event in held:
        server.push_to_device(*queue, event)
    await bob.sync_once()
    assert bodies(bob, room_id) == ["patience"]


async def test_a_new_device_gets_keys_from_then_on(
    enter: Enter, server: FakeHomeserver, tmp_path: Path
) -> None:
    """A second device of bob's reads what is said after it came."""
    alice, bob = await enter("alice"), await enter("bob")
    room_id = await gather_in_room(alice, bob)
    await alice.send_text(room_id, "before")
    second = await Client.login(
        server.transport(), "bob", "secret", store_path=tmp_path / "second", store_key=KEY
    )
    await alice.sync_once()
    await alice.send_text(room_id, "after")
    await second.until(lambda c: bodies(c, room_id) == ["after"], deadline_s=5)
    await second.close()


async def test_a_device_that_is_logged_out_ends_the_session(
    enter: Enter, server: FakeHomeserver, tmp_path: Path
) -> None:
    """Its copy of the session must be of no more use."""
    alice, bob = await enter("alice"), await enter("bob")
    second = await Client.login(
        server.transport(), "bob", "secret", store_path=tmp_path / "second", store_key=KEY
    )
    room_id = await gather_in_room(alice, bob)
    await alice.send_text(room_id, "to all devices")
    first = alice.machine.session_id(room_id)
    await second.logout()
    await second.close()
    await alice.sync_once()
    await alice.send_text(room_id, "to one device")
    assert alice.machine.session_id(room_id) != first


async def test_one_time_keys_are_replenished_and_the_fallback_key_rotates(
    enter: Enter, server: FakeHomeserver
) -> None:
    """A hundred claims drain them; one sync later they are there again."""
    bob = await enter("bob")
    await bob.sync_once()
    who = (bob.user_id, bob.device_id)
    assert len(server.one_time_keys[who]) == 50
    fallback = server.fallback_keys[who]
    for _ in range(100):
        server._keys_claim(who, {"one_time_keys": {bob.user_id: {bob.device_id: "x"}}})
    assert server.one_time_keys[who] == {}
    await bob.sync_once()
    assert len(server.one_time_keys[who]) == 50
    assert server.fallback_keys[who] != fallback


async def test_a_plain_room_stays_plain_until_it_is_encrypted(
    enter: Enter, server: FakeHomeserver
) -> None:
    """Earlier messages stay readable, marked as not encrypted."""
    alice, bob = await enter("alice"), await enter("bob")
    room_id = await alice.create_room(name="Plain", invite=[bob.user_id], encrypted=False)
    await bob.join(room_id)
    await alice.send_text(room_id, "open")
    server.state(room_id, alice.user_id, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    await alice.until(lambda c: c.is_encrypted(room_id), deadline_s=5)
    await alice.until(lambda c: bob.user_id in c.members(room_id), deadline_s=5)
    await alice.send_text(room_id, "closed")
    await bob.until(lambda c: bodies(c, room_id) == ["open", "closed"], deadline_s=5)
    assert [message.encrypted for message in bob.timeline(room_id)] == [False, True]


async def test_a_lost_answer_repeats_nothing(enter: Enter, server: FakeHomeserver) -> None:
    """A send whose answer got lost is made again under its transaction ID."""
    alice, bob = await enter("alice"), await enter("bob")
    room_id = await gather_in_room(alice, bob)
    losses = {"sendToDevice": 1, "/send/": 1}

    def loses(call: Call) -> bool:
        for part, count in losses.items():
            if part in call.path and count:
                losses[part] -= 1
                return True
        return False

    server.failing = loses
    await alice.send_text(room_id, "once")
    assert losses == {"sendToDevice": 0, "/send/": 0}
    await bob.until(lambda c: bodies(c, room_id) == ["once"], deadline_s=5)


async def test_a_message_whose_key_cant_be_delivered_isnt_sent(
    enter: Enter, server: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The homeserver takes no to-device messages: nothing goes out, and later all goes through."""
    alice, bob = await enter("alice"), await enter("bob")
    room_id = await gather_in_room(alice, bob)
    real_sleep = asyncio.sleep
    monkeypatch.setattr(alice._api, "_sleep", lambda _: real_sleep(0))
    server.failing = lambda call: "sendToDevice" in call.path
    with pytest.raises(Unreachable):
        await alice.send_text(room_id, "later")
    assert server.events(room_id, "m.room.encrypted") == []
    server.failing = lambda call: False
    await alice.send_text(room_id, "later")
    await bob.until(lambda c: bodies(c, room_id) == ["later"], deadline_s=5)


async def test_sending_where_we_arent_is_refused(enter: Enter) -> None:
    """The error says what to do."""
    alice = await enter("alice")
    with pytest.raises(ClientError, match="join it first"):
        await alice.send_text("!unknown:hs.test", "hello")


async def test_a_store_holds_one_device(
    enter: Enter, server: FakeHomeserver, tmp_path: Path
) -> None:
    """A second log-in into a used store is refused before the homeserver is asked."""
    alice = await enter("alice")
    await alice.close()
    with pytest.raises(ClientError, match="restore"):
        await Client.login(
            server.transport(), "alice", "secret", store_path=tmp_path / "alice", store_key=KEY
        )
    with pytest.raises(ClientError, match="log in first"):
        await Client.restore(store_path=tmp_path / "empty", store_key=KEY)


async def test_until_gives_up_at_its_deadline(enter: Enter) -> None:
    """A condition that never holds ends in a TimeoutError."""
    alice = await enter("alice")
    with pytest.raises(TimeoutError):
        await alice.until(lambda c: False, deadline_s=0.05)


async def test_a_message_has_a_limit(enter: Enter, server: FakeHomeserver) -> None:
    """The longest one, and its edit, fit an event; a longer one isn't sent."""
    alice = await enter("alice")
    room_id = await alice.create_room(name="Long")
    event_id = await alice.send_text(room_id, "x" * 44_900)
    await alice.edit(room_id, event_id, "y" * 22_000)
    for event in server.events(room_id, "m.room.encrypted"):
        assert len(json.dumps(event)) < 64_000
    for send in (alice.send_text(room_id, "x" * 45_000), alice.edit(room_id, "$1", "é" * 12_000)):
        with pytest.raises(ClientError, match="split"):
            await send
    await alice.sync_once()
    assert bodies(alice, room_id) == ["y" * 22_000]


async def test_running_goes_on_after_the_homeserver_was_away(
    enter: Enter, server: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unreachable for a while; then messages come again."""
    alice, bob = await enter("alice"), await enter("bob")
    room_id = await gather_in_room(alice, bob)
    real_sleep = asyncio.sleep
    monkeypatch.setattr(bob._api, "_sleep", lambda _: real_sleep(0))
    failures = 7

    def fails(call: Call) -> bool:
        nonlocal failures
        failures -= call.token != "" and "/sync" in call.path and failures > 0
        return failures > 0 and "/sync" in call.path

    server.failing = fails
    arrived = asyncio.Event()

    async def watch() -> None:
        while "there" not in bodies(bob, room_id):
            await real_sleep(0.01)
        arrived.set()

    await alice.send_text(room_id, "there")
    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        running = group.create_task(bob.run())
        await watch()
        running.cancel()
    assert arrived.is_set()
    assert failures == 0


async def test_pauses_after_failed_syncs_double_up_to_a_minute(
    enter: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And begin anew once a sync succeeds."""
    alice = await enter("alice")
    failing, waits, pauses = [True] * 8 + [False, True], list[int](), list[float]()

    async def sync_once(timeout_ms: int) -> None:
        waits.append(timeout_ms)
        if failing.pop(0):
            raise Unreachable("away")

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if not failing:
            raise asyncio.CancelledError

    monkeypatch.setattr(alice, "sync_once", sync_once)
    monkeypatch.setattr("e2ee.client.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await alice.run()
    doubled = [min(SYNC_PAUSE_S_MAX, SYNC_PAUSE_S_MIN * 2**number) for number in range(8)]
    assert pauses == [*doubled, SYNC_PAUSE_S_MIN]
    assert set(waits) == {SYNC_WAIT_MS}


async def test_a_condition_is_waited_for_in_short_syncs(
    enter: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a condition that another task brings about is seen soon; a join has a deadline."""
    alice = await enter("alice")
    waits: list[int] = []

    async def sync(since: str, timeout_ms: int, events: int) -> dict[str, object]:
        waits.append(timeout_ms)
        return {}

    monkeypatch.setattr(alice._api, "sync", sync)
    await alice.until(lambda _: len(waits) == 2, deadline_s=60)
    assert waits == [SYNC_POLL_MS] * 2
    deadlines: list[float] = []

    async def until(is_reached: object, *, deadline_s: float) -> None:
        deadlines.append(deadline_s)

    monkeypatch.setattr(alice, "until", until)
    await alice.create_room(name="Room")
    assert deadlines == [JOIN_WAIT_S_MAX]
