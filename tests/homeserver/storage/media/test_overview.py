"""Lists and sums of media."""

from __future__ import annotations

import pytest

from homeserver import limits
from homeserver.rules.media.mxc import Mxc
from homeserver.storage.media.overview import MediaOverview, Usage
from homeserver.storage.media.quarantine import QuarantineTable
from tests.homeserver.media_world import ALICE, BOB, ELSEWHERE, HERE, MediaWorld


async def test_pages_are_in_order_bounded_and_filtered(
    world: MediaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEDIA_READ_AT_ONCE", 2)
    overview = MediaOverview(world.database)
    mine = [await world.upload(b"1"), await world.upload(b"2")]
    bobs, far = await world.upload(b"3", by=BOB), await world.keep_remote("far")
    every: list[Mxc] = []
    while page := await overview.page(after=every[-1] if every else None):
        assert len(page) <= 2
        every += [item.mxc for item in page]
    assert every == sorted([*mine, bobs, far])
    assert [one.mxc for one in await overview.page(uploader=ALICE)] == mine
    assert [one.mxc for one in await overview.page(origin=ELSEWHERE)] == [far]
    await QuarantineTable(world.database).add(bobs)
    assert [one.mxc for one in await overview.page(is_quarantined=True)] == [bobs]
    assert len(await overview.page(uploader=BOB, is_quarantined=False)) == 0


async def test_usage_is_summed_by_source(world: MediaWorld) -> None:
    await world.upload(b"12345")
    await world.upload(b"12345")
    await world.upload(b"123", by=BOB)
    await world.keep_remote("far", b"1" * 100)
    await world.media.reserve(Mxc(HERE, "x"), BOB, now_ms=1, expires_ms=9, needs_token=True)
    content = await world.contents.put(b"preview")
    await world.database.execute(
        "INSERT INTO media (origin, media_id, content_type, sha256, size, created_ms,"
        " last_access_ms, needs_token) VALUES ('hs1', 'p', 'image/png', $1, 7, 1, 1, true)",
        content.sha256,
    )
    assert await MediaOverview(world.database).usage(HERE) == [
        Usage(ELSEWHERE, False, 1, 100),
        Usage(ALICE, True, 2, 10),
        Usage("", True, 1, 7),
        Usage(BOB, True, 1, 3),
    ]
