"""Answers with media, read as they come and handed on piece by piece.

Rules:
1. The size of the media is counted while it comes, whatever a header says of it.
2. A multipart answer has two parts: a small JSON object, then the media, or a `Location` where
   they are. Anything else is refused, as is a part in an encoding for mail.
3. A plain answer says how long it is, or is chunked: otherwise one that breaks off looks whole.
4. An answer in a content coding is refused: none was asked for, and the bytes would not be those of
   the media.

Spec: server-server API, "Content Repository"; client-server API, "Content Repository".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from federation.events.canonical_json import NotCanonical
from federation.limits import MEDIA_METADATA_BYTES_MAX
from federation.transport.media.header_values import parse_file_name, parse_header_value
from federation.transport.media.multipart_reader import (
    MultipartInvalid,
    MultipartReader,
    PartEnd,
    PartStart,
)
from federation.transport.requests.answers import parse_document

_MEDIA_PART = 1
_IDENTITIES = frozenset({"", "identity"})
_PLAIN_ENCODINGS = frozenset({"", "7bit", "8bit", "binary"})


class MediaInvalid(Exception):
    """An answer that isn't media as it should be; the text says why."""


class MediaTooLarge(Exception):
    """The media are larger than what was asked for."""


@dataclass(frozen=True, slots=True)
class MediaDescription:
    """What another server says of its media; neither is checked. None: nothing."""

    content_type: str | None
    file_name: str | None


class MediaReceiver(Protocol):
    """Takes the media that are fetched.

    A Protocol: the homeserver stores them, tests look at them.
    """

    async def begin(self, description: MediaDescription) -> None:
        """Gets the description, once, before the first piece."""

    async def write(self, piece: bytes) -> None:
        """Gets the next piece."""


class MediaAnswer(Protocol):
    """One answer as it comes: `PlainAnswer` or `MultipartAnswer`."""

    @property
    def location(self) -> str | None:
        """Where the media are, if the answer doesn't have them itself."""

    async def feed(self, data: bytes) -> None:
        """Takes in the next bytes. Raises MediaInvalid, MediaTooLarge."""

    async def finish(self) -> None:
        """Ends the answer. Raises MediaInvalid where something is missing."""


class _CountedMedia:
    """The media of one answer, on their way to the receiver."""

    def __init__(self, receiver: MediaReceiver, bytes_max: int) -> None:
        self._receiver, self._left = receiver, bytes_max

    async def begin(self, headers: Mapping[str, str]) -> None:
        disposition = headers.get("content-disposition")
        file_name = None if disposition is None else parse_file_name(disposition)
        await self._receiver.begin(MediaDescription(headers.get("content-type"), file_name))

    async def write(self, piece: bytes) -> None:
        self._left -= len(piece)
        if self._left < 0:
            raise MediaTooLarge
        await self._receiver.write(piece)


class PlainAnswer:
    """An answer whose body is the media. Raises MediaInvalid."""

    location = None

    def __init__(self, headers: Mapping[str, str], receiver: MediaReceiver, bytes_max: int) -> None:
        _check_coding(headers)
        chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        if not chunked and "content-length" not in headers:
            raise MediaInvalid("the answer doesn't say how long it is")
        self._headers = headers
        self._media = _CountedMedia(receiver, bytes_max)
        self._is_begun = False

    async def feed(self, data: bytes) -> None:
        """Takes in the next bytes. Raises MediaTooLarge."""
        await self._begin()
        await self._media.write(data)

    async def finish(self) -> None:
        """Ends the answer."""
        await self._begin()

    async def _begin(self) -> None:
        if not self._is_begun:
            self._is_begun = True
            await self._media.begin(self._headers)


class MultipartAnswer:
    """An answer in two parts. Raises MediaInvalid. `location` is where the media are, if the answer
    doesn't have them itself."""

    def __init__(self, headers: Mapping[str, str], receiver: MediaReceiver, bytes_max: int) -> None:
        _check_coding(headers)
        value = parse_header_value(headers.get("content-type", ""))
        if value.word != "multipart/mixed":
            raise MediaInvalid("the answer isn't multipart/mixed")
        try:
            self._reader = MultipartReader(value.parameters.get("boundary", ""))
        except MultipartInvalid as error:
            raise MediaInvalid(str(error)) from None
        self.location: str | None = None
        self._media = _CountedMedia(receiver, bytes_max)
        self._parts_begun, self._small = 0, bytearray()

    async def feed(self, data: bytes) -> None:
        """Takes in the next bytes. Raises MediaInvalid and MediaTooLarge."""
        try:
            steps = self._reader.feed(data)
        except MultipartInvalid as error:
            raise MediaInvalid(str(error)) from None
        for step in steps:
            match step:
                case PartStart():
                    await self._begin(step.headers)
                case PartEnd():
                    self._end()
                case _:
                    await self._take(step)

    async def finish(self) -> None:
        """Ends the answer. Raises MediaInvalid where something is missing."""
        try:
            self._reader.finish()
        except MultipartInvalid as error:
            raise MediaInvalid(str(error)) from None
        if self._parts_begun <= _MEDIA_PART:
            raise MediaInvalid("the answer has no media")

    @property
    def _is_in_media(self) -> bool:
        return self._parts_begun > _MEDIA_PART

    async def _begin(self, headers: Mapping[str, str]) -> None:
        if self._parts_begun > _MEDIA_PART:
            raise MediaInvalid("the answer has more than two parts")
        is_first = self._parts_begun < _MEDIA_PART
        self._parts_begun += 1
        self._small.clear()
        encoding = headers.get("content-transfer-encoding", "")
        if encoding.lower() not in _PLAIN_ENCODINGS:
            raise MediaInvalid("a part is encoded")
        if is_first:
            kind = parse_header_value(headers.get("content-type", "")).word
            if kind != "application/json":
                raise MediaInvalid("the first part isn't JSON")
            return
        self.location = headers.get("location")
        if self.location is None:
            _check_coding(headers)
            await self._media.begin(headers)

    async def _take(self, piece: bytes) -> None:
        if self._is_in_media and self.location is None:
            await self._media.write(piece)
            return
        self._small += piece
        if len(self._small) > MEDIA_METADATA_BYTES_MAX:
            raise MediaInvalid("a part besides the media is too long")

    def _end(self) -> None:
        if self._is_in_media:
            return
        try:
            parse_document(bytes(self._small))
        except NotCanonical:
            raise MediaInvalid("the first part isn't a JSON object") from None


def _check_coding(headers: Mapping[str, str]) -> None:
    if headers.get("content-encoding", "").lower() not in _IDENTITIES:
        raise MediaInvalid("the answer is in a content coding")
