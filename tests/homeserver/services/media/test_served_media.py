"""Media of this server, as other servers get them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from federation.media_ports import ThumbnailWish
from homeserver import limits
from homeserver.services.media.served_media import MediaForServers
from homeserver.storage.media.quarantine import QuarantineTable
from tests.homeserver.media.pictures import opened, picture
from tests.homeserver.media_world import ALICE, HERE, MediaWorld, refused, whole
from tests.homeserver.view_world import MANY, Views


@pytest_asyncio.fixture
async def served(world: MediaWorld) -> AsyncIterator[MediaForServers]:
    """The media of the world, with the real sandbox."""
    views = Views(world, MANY)
    yield MediaForServers(world.downloads, views.thumbnails, HERE)
    await views.sandbox.close()


async def test_media_are_opened_with_their_description(
    world: MediaWorld, served: MediaForServers
) -> None:
    mxc = await world.upload(b"content", content_type="text/html", file_name='a"b.png')
    media = await served.open(mxc.media_id, 0)
    assert (media.content_type, media.size) == ("text/html", 7)
    assert media.disposition == "attachment; filename*=UTF-8''a%22b.png"
    assert await whole(media.pieces) == b"content"


@pytest.mark.parametrize("media_id", ["unknown", "", "..", "a/b", "ä", "a" * 256, "a\0"])
async def test_what_is_not_there_is_not_found(served: MediaForServers, media_id: str) -> None:
    async with refused(404, "M_NOT_FOUND"):
        await served.open(media_id, 0)


async def test_media_of_other_servers_are_not_passed_on(
    world: MediaWorld, served: MediaForServers
) -> None:
    mxc = await world.keep_remote("far")
    async with refused(404, "M_NOT_FOUND"):
        await served.open(mxc.media_id, 0)


async def test_what_is_in_quarantine_is_not_served(
    world: MediaWorld, served: MediaForServers
) -> None:
    mxc = await world.upload()
    await QuarantineTable(world.database).add(mxc)
    async with refused(404, "M_NOT_FOUND"):
        await served.open(mxc.media_id, 0)


async def test_what_is_not_yet_uploaded_is_told(world: MediaWorld, served: MediaForServers) -> None:
    reserved = await world.uploads.reserve(ALICE)
    async with refused(504, "M_NOT_YET_UPLOADED"):
        await served.open(reserved.mxc.media_id, 0)


async def test_a_thumbnail_is_made_as_it_is_wanted(
    world: MediaWorld, served: MediaForServers
) -> None:
    mxc = await world.upload(picture("JPEG"), content_type="image/jpeg")
    media = await served.open_thumbnail(mxc.media_id, ThumbnailWish(32, 32, "crop"), 0)
    made = await whole(media.pieces)
    assert (media.content_type, media.size) == ("image/jpeg", len(made))
    assert media.disposition == 'inline; filename="thumbnail.jpg"'
    assert opened(made).size == (32, 32)


async def test_a_small_picture_is_its_own_thumbnail(
    world: MediaWorld, served: MediaForServers
) -> None:
    data = picture("PNG", (20, 10))
    mxc = await world.upload(data, content_type="image/png")
    media = await served.open_thumbnail(mxc.media_id, ThumbnailWish(32, 32), 0)
    assert (await whole(media.pieces), media.size) == (data, len(data))


async def test_what_is_no_picture_has_no_thumbnail(
    world: MediaWorld, served: MediaForServers
) -> None:
    mxc = await world.upload()
    async with refused(400, "M_UNKNOWN"):
        await served.open_thumbnail(mxc.media_id, ThumbnailWish(32, 32), 0)
    async with refused(404, "M_NOT_FOUND"):
        await served.open_thumbnail("unknown", ThumbnailWish(32, 32), 0)


@pytest.mark.parametrize("side", [0, limits.THUMBNAIL_SIDE + 1])
async def test_a_size_that_no_thumbnail_has_is_refused(
    world: MediaWorld, served: MediaForServers, side: int
) -> None:
    mxc = await world.upload(picture("PNG", (20, 10)), content_type="image/png")
    for wish in (ThumbnailWish(side, 32), ThumbnailWish(32, side)):
        async with refused(400, "M_INVALID_PARAM"):
            await served.open_thumbnail(mxc.media_id, wish, 0)
    largest = ThumbnailWish(limits.THUMBNAIL_SIDE, 1)
    assert await whole((await served.open_thumbnail(mxc.media_id, largest, 0)).pieces)
