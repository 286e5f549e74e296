"""Rows of thumbnails: one for each content and shape, gone with their content."""

import pytest

from homeserver import limits
from homeserver.rules.media.thumbnail_sizes import Method, Shape, Size
from homeserver.storage.media.media import delete_media
from homeserver.storage.media.thumbnails import StoredThumbnail, ThumbnailKey, ThumbnailTable
from tests.homeserver.media_world import ELSEWHERE, HERE, MediaWorld

SHAPE = Shape(Method.CROP, Size(96, 96))


async def key_of(world: MediaWorld, data: bytes = b"picture") -> ThumbnailKey:
    item = await world.item(await world.upload(data))
    assert item.content is not None
    return ThumbnailKey(item.content.sha256, SHAPE, False)


async def test_a_thumbnail_is_what_was_stored(world: MediaWorld) -> None:
    table, key = ThumbnailTable(world.database), await key_of(world)
    assert await table.load(key) is None
    made = StoredThumbnail("image/png", await world.contents.put(b"thumbnail"))
    await table.keep(key, made)
    assert await table.load(key) == made
    for other in (
        ThumbnailKey(key.source, SHAPE, True),
        ThumbnailKey(key.source, Shape(Method.SCALE, SHAPE.size), False),
        ThumbnailKey(key.source, Shape(Method.CROP, Size(32, 32)), False),
    ):
        assert await table.load(other) is None
    again = StoredThumbnail("image/jpeg", await world.contents.put(b"another"))
    await table.keep(key, again)
    assert await table.load(key) == again


async def test_what_other_servers_made_takes_so_many_bytes(
    world: MediaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, key = ThumbnailTable(world.database), await key_of(world)
    for maker in ("", ELSEWHERE):
        for side in (32, 96):
            made = StoredThumbnail("image/png", await world.contents.put(b"%d%d" % (side, side)))
            shape = Shape(Method.CROP, Size(side, side))
            await table.keep(ThumbnailKey(key.source, shape, False, maker), made)
    monkeypatch.setattr(limits, "MEDIA_REMOTE_THUMBNAILS_BYTES", 8)
    assert await table.delete_excess() == 0
    monkeypatch.setattr(limits, "MEDIA_REMOTE_THUMBNAILS_BYTES", 7)
    assert await table.delete_excess() == 1
    assert await table.delete_excess() == 0
    makers = await world.database.fetch("SELECT maker FROM media_thumbnails ORDER BY maker")
    assert [row["maker"] for row in makers] == ["", "", ELSEWHERE]


async def test_the_picture_itself_may_be_its_thumbnail(world: MediaWorld) -> None:
    table, key = ThumbnailTable(world.database), await key_of(world)
    await table.keep(key, StoredThumbnail("image/png", None))
    assert await table.load(key) == StoredThumbnail("image/png", None)
    assert await world.counts() == [1], "it doesn't keep the picture"


async def test_thumbnails_go_with_their_picture(world: MediaWorld) -> None:
    """And their own contents with them: nothing of a deleted picture stays."""
    table, key = ThumbnailTable(world.database), await key_of(world)
    await table.keep(key, StoredThumbnail("image/png", await world.contents.put(b"thumbnail")))
    assert await world.counts() == [1, 1]
    rows = await world.database.fetch("SELECT media_id FROM media")
    async with world.database.transaction() as connection:
        await delete_media(connection, HERE, [row["media_id"] for row in rows])
    world.clock.at_ms += limits.MEDIA_UNREFERENCED_MS + 1
    assert await world.contents.delete_unreferenced() == 2
    assert await table.load(key) is None
    assert (await world.counts(), world.files) == ([], [])


async def test_nothing_is_kept_for_a_picture_that_is_gone(world: MediaWorld) -> None:
    table, key = ThumbnailTable(world.database), await key_of(world)
    made = StoredThumbnail("image/png", await world.contents.put(b"thumbnail"))
    await world.database.execute(
        "UPDATE media_blobs SET is_deleting = true WHERE sha256 = $1", key.source
    )
    await table.keep(key, made)
    assert await table.load(key) is None
