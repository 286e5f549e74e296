"""Rows of previews: the newest counts, and old ones go with their pictures."""

import pytest

from homeserver import limits
from homeserver.rules.media.mxc import Mxc
from homeserver.storage.media.media import Description
from homeserver.storage.media.url_previews import PreviewTable, StoredPreview
from tests.homeserver.media_world import HERE, MediaWorld

URL = "https://a.example/"


async def picture(world: MediaWorld, media_id: str) -> Mxc:
    mxc, content = Mxc(HERE, media_id), await world.contents.put(media_id.encode())
    described = Description("image/png", None)
    assert await world.media.add(mxc, None, described, content, now_ms=1, needs_token=True)
    return mxc


async def test_the_newest_preview_counts(world: MediaWorld) -> None:
    table = PreviewTable(world.database, HERE)
    assert await table.load(URL) is None
    for at_ms in (5, 9, 7):
        await table.keep(URL, StoredPreview(b"%d" % at_ms, at_ms), None)
    assert await table.load(URL) == StoredPreview(b"9", 9)
    await table.keep(URL, StoredPreview(b"other", 9), None)
    assert await table.load(URL) == StoredPreview(b"9", 9)
    assert await table.load(URL + "x") is None


async def test_old_previews_go_with_their_pictures(world: MediaWorld) -> None:
    table = PreviewTable(world.database, HERE)
    old, new = await picture(world, "old"), await picture(world, "new")
    await table.keep(URL, StoredPreview(b"old", 5), old.media_id)
    await table.keep(URL, StoredPreview(b"new", 6), new.media_id)
    await table.keep("https://b.example/", StoredPreview(b"none", 4), None)
    assert await table.prune(before_ms=6) == 2
    assert await table.prune(before_ms=6) == 0
    assert await table.load(URL) == StoredPreview(b"new", 6)
    assert await world.media.load(old) is None
    assert await world.media.load(new) is not None
    assert await world.counts() == [0, 1]


async def test_so_many_previews_are_stored(
    world: MediaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PREVIEWS_STORED", 3)
    table = PreviewTable(world.database, HERE)
    for number in range(3):
        await table.keep(f"{URL}{number}", StoredPreview(b"{}", 10 + number), None)
    assert await table.prune(before_ms=0) == 0
    await table.keep(f"{URL}3", StoredPreview(b"{}", 13), None)
    assert await table.prune(before_ms=0) == 1
    assert await table.load(f"{URL}0") is None
    assert await table.load(f"{URL}1") is not None


@pytest.mark.parametrize(("bytes_max", "left"), [(6, 3), (5, 2), (0, 0)])
async def test_pictures_take_so_many_bytes(
    world: MediaWorld, monkeypatch: pytest.MonkeyPatch, bytes_max: int, left: int
) -> None:
    monkeypatch.setattr(limits, "PREVIEW_PICTURES_BYTES", bytes_max)
    table = PreviewTable(world.database, HERE)
    for number in range(3):
        mxc = await picture(world, f"p{number}")  # two bytes
        await table.keep(f"{URL}{number}", StoredPreview(b"{}", 10 + number), mxc.media_id)
    await table.prune(before_ms=0)
    kept = [await table.load(f"{URL}{number}") is not None for number in range(3)]
    assert kept == [False] * (3 - left) + [True] * left
    assert await world.counts() == [0] * (3 - left) + [1] * left


async def test_so_many_go_at_once(world: MediaWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PREVIEWS_PRUNED_AT_ONCE", 2)
    table = PreviewTable(world.database, HERE)
    for number in range(3):
        await table.keep(f"{URL}{number}", StoredPreview(b"{}", number), None)
    assert [await table.prune(before_ms=9) for _ in range(3)] == [2, 1, 0]
