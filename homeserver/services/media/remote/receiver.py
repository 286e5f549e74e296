"""What takes media of another server into the store.

What that server says of their type and name is made fit to be stored first.
"""

from __future__ import annotations

from federation.transport.media.media_answers import MediaDescription
from homeserver.rules.media.descriptions import remote_content_type, remote_file_name
from homeserver.services.media.contents import ContentWriter
from homeserver.storage.media.media import Description


class StoredMedia:
    """Puts what comes into the store; `described` is what was said of it. Implements
    `MediaReceiver`."""

    def __init__(self, writer: ContentWriter) -> None:
        self._writer = writer
        self.described = Description(remote_content_type(None), None)

    async def begin(self, description: MediaDescription) -> None:
        """Takes the description."""
        self.described = Description(
            remote_content_type(description.content_type),
            remote_file_name(description.file_name),
        )

    async def write(self, piece: bytes) -> None:
        """Takes the next piece."""
        await self._writer.write(piece)
