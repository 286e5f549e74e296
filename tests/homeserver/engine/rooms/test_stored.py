"""Rows of events as the engine's values, and back: what was stored is what is read."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from federation.events.event import Event
from federation.graph.admission import Accepted, Rejected, SoftFailed
from federation.graph.auth.auth_failures import AuthFailure, AuthRule
from federation.graph.policy_servers import NotRecommended
from homeserver.engine.rooms.reader import END, event_entry
from homeserver.engine.rooms.snapshots import StateRef
from homeserver.engine.rooms.stored import (
    key_of,
    known_event,
    ref_of,
    stored_failure,
    transaction_of,
)
from tests.homeserver.engine.engine_world import ALICE, BOB, World, draft, in_memory, message

JOIN = draft("m.room.member", {"membership": "join"}, BOB, sender=BOB)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with in_memory() as made:
        yield made


# Failures


@pytest.mark.parametrize(
    ("detail", "stored"),
    [("", ""), ("the sender: no member", "the sender: no member"), ("\n: \0", "\\n: \\x00")],
)
def test_each_rules_failure_is_read_as_it_was(detail: str, stored: str) -> None:
    """Only what no store takes is written otherwise."""
    for rule in AuthRule:
        assert stored_failure(str(AuthFailure(rule, detail))) == AuthFailure(rule, stored)


@pytest.mark.parametrize("detail", ["", "spam: very"])
def test_a_policy_servers_no_is_read_as_it_was(detail: str) -> None:
    assert stored_failure(str(NotRecommended(detail))) == NotRecommended(detail)


@pytest.mark.parametrize(
    ("stored", "detail"),
    [
        (None, "it was refused before"),
        ("", "it was refused before"),
        ("its auth events don't allow it", "its auth events don't allow it"),
        ("a rule of a later version: detail", "a rule of a later version: detail"),
    ],
)
def test_a_reason_that_names_no_rule_is_a_rejection_for_its_auth_events(
    stored: str | None, detail: str
) -> None:
    assert stored_failure(stored) == AuthFailure(AuthRule.AUTH_EVENT_REJECTED, detail)


# Transactions


async def test_an_events_transaction_is_that_of_its_device(world: World) -> None:
    """As far as `unsigned` needs it: who, with which device, under which ID."""
    assert transaction_of(None, ALICE) is None
    for transaction_id in ("t", "", "two\nlines", "m1.2:3"):
        key = transaction_of(f"DEVICE\n{transaction_id}", ALICE)
        assert key is not None
        assert (key.user_id, key.device_id, key.transaction_id) == (ALICE, "DEVICE", transaction_id)
    room_id = await world.create_room()
    with_one, without = await world.say(room_id, "1", txn="t\n1"), await world.say(room_id, "2")
    page = await world.engine.reader.page(
        await world.room(room_id), start=END, backwards=True, limit=2
    )
    read = {one.event.event_id: one.transaction for one in map(event_entry, page)}
    assert [read[one] for one in (with_one, without)] == [
        transaction_of("DEVICE\nt\n1", ALICE),
        None,
    ]


# State events


@pytest.mark.parametrize(
    ("kind", "state_key"),
    [("m.room.topic", ""), ("org.\0x", "\0"), ("\\u0000", "\\0"), ("ä\\", "\\\0\\"), ("x", "👍")],
)
async def test_a_key_is_read_as_it_was_sent(world: World, kind: str, state_key: str) -> None:
    room_id = await world.create_room()
    content: dict[str, object] = {"a": "\0"}
    sent = await world.engine.writer.send(room_id, draft(kind, content, state_key))
    event_ids = [sent.event_id]
    [ref_row] = await world.engine.store.events.refs_by_id(event_ids)
    [row] = await world.engine.store.events.by_id(event_ids)
    assert key_of(ref_row) == key_of(row) == (kind, state_key)
    current = (await world.room(room_id)).view.state[kind, state_key]
    assert ref_of(ref_row) == current
    assert known_event(row).event.content == content


async def test_a_members_entry_has_the_membership(world: World) -> None:
    room_id = await world.create_room()
    join = await world.remote(room_id, JOIN)
    await world.engine.remote_event_writer.accept(join, Accepted())
    [row] = await world.engine.store.events.refs_by_id([join.event_id])
    ref = ref_of(row)
    assert isinstance(ref, StateRef)
    assert (ref.event_id, ref.membership) == (join.event_id, "join")
    assert ref == (await world.room(room_id)).view.state["m.room.member", BOB]


# Events


async def test_an_event_is_read_with_its_verdict(world: World) -> None:
    room_id = await world.create_room()
    join = await world.remote(room_id, JOIN)
    writer = world.engine.remote_event_writer
    await writer.accept(join, Accepted())
    late = await world.remote(room_id, message("late", BOB))
    refused = await world.remote(room_id, message("refused", BOB))
    outlier = await world.remote(room_id, message("outlier", BOB))
    await world.engine.writer.send(room_id, draft("m.room.member", {"membership": "ban"}, BOB))
    failure = AuthFailure(AuthRule.SENDER_NOT_JOINED, "he: isn't here")
    assert isinstance(await writer.accept(late, Accepted()), SoftFailed)
    assert await writer.accept(refused, Rejected(failure)) == Rejected(failure)
    await writer.store_outliers([outlier], [])
    await _check(world, join, "accepted")
    await _check(world, late, "soft-failed")
    await _check(world, refused, "rejected")
    await _check(world, outlier, "outlier")
    [row] = await world.engine.store.events.by_id([refused.event_id])
    assert stored_failure(known_event(row).reason) == failure


async def _check(world: World, event: Event, verdict: str) -> None:
    [row] = await world.engine.store.events.by_id([event.event_id])
    known = known_event(row)
    assert (known.event, known.event.raw) == (event, event.raw)
    assert (known.rejected, known.soft_failed, known.outlier) == (
        verdict == "rejected",
        verdict == "soft-failed",
        verdict == "outlier",
    )
    assert (known.reason is None) == (verdict in ("accepted", "outlier"))
