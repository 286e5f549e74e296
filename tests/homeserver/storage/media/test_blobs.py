"""Contents: their rows, the counts of what refers to them, and the three steps of a deletion."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random

import pytest

from homeserver import limits
from homeserver.rules.media.mxc import Mxc
from homeserver.storage.database import Database, DataRefused
from homeserver.storage.media.blob_store import BlobContent, Digest
from homeserver.storage.media.blobs import BlobSweep, BlobTable
from homeserver.storage.media.media import Description, MediaTable
from tests.homeserver.media_world import ALICE, ELSEWHERE, HERE

TEXT = Description("text/plain", None)


def content(number: int, size: int = 5) -> BlobContent:
    return BlobContent(Digest(bytes([number]) * 32), size)


@pytest.fixture
def blobs(database: Database) -> BlobTable:
    return BlobTable(database)


@pytest.fixture
async def sweep(blobs: BlobTable) -> AsyncIterator[BlobSweep]:
    async with blobs.sweeping() as found:
        assert found is not None
        yield found


async def refer(database: Database, media_id: str, to: BlobContent) -> None:
    await MediaTable(database).keep_remote(
        Mxc(ELSEWHERE, media_id), TEXT, to, now_ms=1, needs_token=True
    )


async def test_only_old_contents_without_references_are_claimed(
    database: Database, blobs: BlobTable, sweep: BlobSweep
) -> None:
    for number, written_ms in ((1, 10), (2, 10), (3, 20)):
        assert await blobs.expect(content(number), now_ms=written_ms)
    await refer(database, "a", content(2))
    assert await sweep.claim(before_ms=20) == [content(1).sha256]
    assert await blobs.stored_bytes() == 15
    await sweep.forget(content(1).sha256)
    await sweep.forget(content(2).sha256)
    assert await blobs.stored_bytes() == 10
    assert await sweep.claim(before_ms=20) == []


async def test_a_content_that_is_expected_again_is_as_new(
    blobs: BlobTable, sweep: BlobSweep
) -> None:
    await blobs.expect(content(1), now_ms=10)
    await blobs.expect(content(1), now_ms=50)
    assert await sweep.claim(before_ms=50) == []
    assert await sweep.claim(before_ms=51) == [content(1).sha256]


async def test_a_claimed_content_is_claimed_until_it_is_forgotten(
    database: Database, blobs: BlobTable, sweep: BlobSweep
) -> None:
    """Whoever died between the steps is followed by somebody who finishes them."""
    await blobs.expect(content(1), now_ms=10)
    await sweep.claim(before_ms=20)
    assert not await blobs.expect(content(1), now_ms=30)
    with pytest.raises(DataRefused, match="is being deleted"):
        await refer(database, "a", content(1))
    assert await sweep.claim(before_ms=0) == [content(1).sha256]
    await sweep.forget(content(1).sha256)
    assert await blobs.expect(content(1), now_ms=30)
    await refer(database, "a", content(1))


async def test_one_sweep_is_under_way_at_a_time(blobs: BlobTable) -> None:
    async with blobs.sweeping() as first:
        assert first is not None
        async with blobs.sweeping() as second:
            assert second is None, "it could delete what is stored again meanwhile"
    async with blobs.sweeping() as third:
        assert third is not None


async def test_one_claim_is_bounded(
    blobs: BlobTable, sweep: BlobSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEDIA_DELETED_AT_ONCE", 2)
    for number in range(3):
        await blobs.expect(content(number), now_ms=1)
    assert len(await sweep.claim(before_ms=2)) == 2


async def test_nothing_can_refer_to_a_content_without_a_row(database: Database) -> None:
    with pytest.raises(DataRefused):
        await refer(database, "a", content(9))


async def test_counts_are_those_of_the_rows_whatever_changes_them(
    database: Database, blobs: BlobTable
) -> None:
    """Against a plain model: rows are added, replaced and deleted, one or many at once."""
    random, model = Random(7), dict[str, int]()
    for number in range(4):
        await blobs.expect(content(number), now_ms=1)
    for _ in range(60):
        media_id, number = f"m{random.randrange(6)}", random.randrange(4)
        match random.randrange(4):
            case 0 | 1:
                await refer(database, media_id, content(number))
                model[media_id] = number
            case 2:
                await database.execute("DELETE FROM media WHERE media_id = $1", media_id)
                model.pop(media_id, None)
            case 3:
                digest = content(number).sha256
                await database.execute("DELETE FROM media WHERE sha256 = $1", digest)
                model = {name: one for name, one in model.items() if one != number}
        rows = await database.fetch("SELECT sha256, reference_count FROM media_blobs")
        counted = {row[0][0]: row[1] for row in rows}
        assert counted == {one: list(model.values()).count(one) for one in range(4)}


async def test_a_row_may_lose_and_get_its_content(database: Database, blobs: BlobTable) -> None:
    await blobs.expect(content(1), now_ms=1)
    await blobs.expect(content(2), now_ms=1)
    media = MediaTable(database)
    mxc = Mxc(HERE, "a")
    await media.reserve(mxc, ALICE, now_ms=1, expires_ms=9, needs_token=True)
    assert await media.complete(mxc, ALICE, TEXT, content(1), now_ms=2)
    await database.execute("UPDATE media SET file_name = 'x'")
    await database.execute("UPDATE media SET sha256 = $1", content(2).sha256)
    rows = await database.fetch("SELECT reference_count FROM media_blobs ORDER BY sha256")
    assert [row[0] for row in rows] == [0, 1]
    await database.execute("UPDATE media SET sha256 = NULL, size = NULL")
    rows = await database.fetch("SELECT reference_count FROM media_blobs ORDER BY sha256")
    assert [row[0] for row in rows] == [0, 0]
