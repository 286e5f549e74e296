"""Media on their way into the store."""

from __future__ import annotations

from federation.transport.media.media_answers import MediaDescription
from homeserver.services.media.remote.receiver import StoredMedia
from homeserver.storage.media.media import Description
from tests.homeserver.media_world import MediaWorld, whole


async def test_media_are_stored_with_a_description_that_is_harmless(world: MediaWorld) -> None:
    async with world.contents.writing(bytes_max=100) as writer:
        receiver = StoredMedia(writer)
        assert receiver.described == Description("application/octet-stream", None)
        await receiver.begin(MediaDescription("text/html\r\n", "../a\0.html"))
        await receiver.write(b"the ")
        await receiver.write(b"media")
        content = await writer.keep()
    assert receiver.described == Description("text/html", "a.html")
    assert await whole(await world.contents.read(content)) == b"the media"
