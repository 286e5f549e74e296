"""Quarantines: of a URI, and of its content wherever it comes again."""

from __future__ import annotations

import pytest

from homeserver.rules.media.mxc import Mxc
from homeserver.storage.media.quarantine import QuarantineTable
from tests.homeserver.media_world import ALICE, BOB, ELSEWHERE, HERE, MediaWorld

UNKNOWN = Mxc(HERE, "unknown")


@pytest.fixture
def table(world: MediaWorld) -> QuarantineTable:
    return QuarantineTable(world.database)


async def test_a_content_is_quarantined_under_all_its_uris(
    world: MediaWorld, table: QuarantineTable
) -> None:
    one, two = await world.upload(b"bad"), await world.keep_remote("far", b"bad")
    good = await world.upload(b"good")
    assert await table.add(one)
    later = await world.upload(b"bad", by=BOB)
    marks = [(await world.item(mxc)).is_quarantined for mxc in (one, two, later, good)]
    assert marks == [True, True, True, False]
    assert await table.release(two)
    marks = [(await world.item(mxc)).is_quarantined for mxc in (one, two, later)]
    assert marks == [True, False, False], "the first is quarantined itself"
    assert await table.release(one)
    assert not (await world.item(one)).is_quarantined


async def test_an_id_is_quarantined_whatever_it_gets(
    world: MediaWorld, table: QuarantineTable
) -> None:
    await world.media.reserve(Mxc(HERE, "a"), ALICE, now_ms=1, expires_ms=9, needs_token=True)
    assert await table.add(Mxc(HERE, "a"))
    assert (await world.item(Mxc(HERE, "a"))).is_quarantined
    unseen = Mxc(ELSEWHERE, "unseen")
    await table.add_unseen(unseen, now_ms=1)
    await table.add_unseen(unseen, now_ms=2)
    assert (await world.item(unseen)).is_quarantined
    await world.keep_remote("unseen", b"it came all the same")
    assert (await world.item(unseen)).is_quarantined


async def test_unknown_uris_are_told(table: QuarantineTable) -> None:
    assert not await table.add(UNKNOWN)
    assert not await table.release(UNKNOWN)
    assert not await table.delete(UNKNOWN)


async def test_deletions_free_contents_that_nothing_else_refers_to(
    world: MediaWorld, table: QuarantineTable
) -> None:
    one = await world.upload(b"shared")
    await world.upload(b"shared", by=BOB)
    await world.upload(b"own")
    assert await world.counts() == [1, 2]
    assert await table.delete(one)
    assert await world.counts() == [1, 1]
    assert await table.delete_uploads(ALICE) == 1
    assert await table.delete_uploads(ALICE) == 0
    assert await world.counts() == [0, 1]
