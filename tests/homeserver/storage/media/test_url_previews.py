"""Rows of previews: the newest counts, and old ones go with their pictures."""

import pytest
from msgspec.structs import replace

from homeserver import limits
from homeserver.rules.media.mxc import Mxc
from homeserver.storage.database import DataRefused
from homeserver.storage.media.blob_store import BlobContent, Digest
from homeserver.storage.media.url_previews import PreviewPicture, PreviewTable, StoredPreview
from tests.homeserver.media_world import HERE, MediaWorld

URL = "https://a.example/"


async def picture(world: MediaWorld, media_id: str) -> PreviewPicture:
    content = await world.contents.put(media_id.encode())
    return PreviewPicture(media_id, "image/png", content, needs_token=True)


async def is_stored(world: MediaWorld, one: PreviewPicture) -> bool:
    """Whether the picture has its URI."""
    return await world.media.load(Mxc(HERE, one.media_id)) is not None


async def test_a_preview_and_its_picture_are_stored_together(world: MediaWorld) -> None:
    """What fails stores neither; one that comes second at a time isn't stored."""
    table = PreviewTable(world.database, HERE)
    first, second = await picture(world, "first"), await picture(world, "second")
    with pytest.raises(DataRefused):
        await table.keep(URL + "\0", StoredPreview(b"first", 5), first)
    assert not await is_stored(world, first)
    unknown = BlobContent(Digest(bytes(32)), 1)
    with pytest.raises(DataRefused):
        await table.keep(URL, StoredPreview(b"first", 5), replace(first, content=unknown))
    assert await table.load(URL) is None
    stored = StoredPreview(b"first", 5)
    assert await table.keep(URL, stored, first) == stored
    assert await table.keep(URL, StoredPreview(b"second", 5), second) == stored
    assert [await is_stored(world, one) for one in (first, second)] == [True, False]
    item = await world.media.load(Mxc(HERE, "first"))
    assert item is not None
    assert (item.uploader, item.content_type, item.needs_token) == (None, "image/png", True)
    assert (item.content, item.created_ms) == (first.content, 5)


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
    await table.keep(URL, StoredPreview(b"old", 5), old)
    await table.keep(URL, StoredPreview(b"new", 6), new)
    await table.keep("https://b.example/", StoredPreview(b"none", 4), None)
    assert await table.prune(before_ms=6) == 2
    assert await table.prune(before_ms=6) == 0
    assert await table.load(URL) == StoredPreview(b"new", 6)
    assert not await is_stored(world, old)
    assert await is_stored(world, new)
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
        one = await picture(world, f"p{number}")  # two bytes
        await table.keep(f"{URL}{number}", StoredPreview(b"{}", 10 + number), one)
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
