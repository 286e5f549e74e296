"""Media of this server, as other servers get them."""

from __future__ import annotations

import pytest

from homeserver.services.media.served_media import MediaForServers
from homeserver.storage.media.quarantine import QuarantineTable
from tests.homeserver.media_world import ALICE, HERE, MediaWorld, refused, whole


@pytest.fixture
def served(world: MediaWorld) -> MediaForServers:
    """The media of the world."""
    return MediaForServers(world.downloads, HERE)


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
