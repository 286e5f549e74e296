"""What every blob store does, whatever it stands on. `size` is that of a content which the store
takes in several pieces."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest

from homeserver.storage.media.blob_store import (
    BlobContent,
    BlobMissing,
    BlobStore,
    Digest,
)
from tests.homeserver.media_world import whole

Check: TypeAlias = Callable[[BlobStore, int], Awaitable[None]]
PIECE_BYTES = 70_000


async def keep(store: BlobStore, data: bytes) -> BlobContent:
    """Writes a content in pieces and keeps it."""
    async with store.writing() as writer:
        for start in range(0, len(data), PIECE_BYTES):
            await writer.write(data[start : start + PIECE_BYTES])
        content = await writer.finish()
        await writer.keep()
    return content


async def check_what_is_kept_is_read(store: BlobStore, size: int) -> None:
    """Empty, small and large contents, whole."""
    for length in (0, 1, size - 1, size):
        data = os.urandom(length)
        content = await keep(store, data)
        assert content == (hashlib.sha256(data).digest(), length)
        assert await whole(await store.read(content.sha256, 0, length)) == data


async def check_any_part_is_read(store: BlobStore, size: int) -> None:
    """Parts at both ends, across pieces, and empty ones."""
    data = os.urandom(size)
    content = await keep(store, data)
    middle = size // 2
    for start, stop in ((0, 1), (size - 1, size), (3, middle), (middle, size), (0, 0), (5, 5)):
        assert await whole(await store.read(content.sha256, start, stop)) == data[start:stop]


async def check_a_content_that_is_not_kept_is_dropped(store: BlobStore, size: int) -> None:
    """Whether or not it was finished, small or large."""
    for length in (1, size):
        data = os.urandom(length)
        async with store.writing() as writer:
            await writer.write(data)
        async with store.writing() as writer:
            await writer.write(data)
            content = await writer.finish()
            with pytest.raises(BlobMissing):
                await whole(await store.read(content.sha256, 0, length))
        with pytest.raises(BlobMissing):
            await whole(await store.read(content.sha256, 0, length))
    assert await store.remove_unfinished(before_s=2**33) == 0


async def check_a_failure_of_the_sender_keeps_nothing(store: BlobStore, size: int) -> None:
    """The error passes, and nothing is left."""

    async def fail() -> None:
        async with store.writing() as writer:
            await writer.write(os.urandom(size))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await store.remove_unfinished(before_s=2**33) == 0


async def check_the_same_content_may_be_written_at_once(store: BlobStore, size: int) -> None:
    """By several writers, and again later."""
    data = os.urandom(size)
    kept = await asyncio.gather(*(keep(store, data) for _ in range(3)))
    assert kept == [kept[0]] * 3
    assert await whole(await store.read(kept[0].sha256, 0, size)) == data
    assert await store.remove_unfinished(before_s=2**33) == 0


async def check_a_deleted_content_is_gone(store: BlobStore, size: int) -> None:
    """A deletion may be repeated, and the content may come back."""
    data = os.urandom(size)
    content = await keep(store, data)
    for _ in range(2):
        await store.delete(content.sha256)
        with pytest.raises(BlobMissing):
            await whole(await store.read(content.sha256, 0, size))
    assert await keep(store, data) == content
    assert await whole(await store.read(content.sha256, 0, size)) == data


async def check_a_reader_may_stop_early(store: BlobStore, size: int) -> None:
    """And an unknown content is missing."""
    content = await keep(store, os.urandom(size))
    pieces = await store.read(content.sha256, 0, size)
    assert await anext(pieces)
    await pieces.aclose()
    with pytest.raises(BlobMissing):
        await whole(await store.read(Digest(bytes(32)), 0, 1))


CHECKS: list[Check] = [
    check_what_is_kept_is_read,
    check_any_part_is_read,
    check_a_content_that_is_not_kept_is_dropped,
    check_a_failure_of_the_sender_keeps_nothing,
    check_the_same_content_may_be_written_at_once,
    check_a_deleted_content_is_gone,
    check_a_reader_may_stop_early,
]
