"""Figures: what a thumbnail costs beside Pillow's own time.

CPU of this process and of the sandbox's, in milliseconds for each thumbnail: Pillow alone opens,
shrinks (`Image.thumbnail`) and saves in one process; the sandbox does the same with a process for
each; the service also reads the picture from the store, keeps the thumbnail and writes its row.
The start of the sandbox (once) is beside it.
"""

from __future__ import annotations

import io
import random
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from PIL import Image

from homeserver.media.job_orders import (
    MODULES,
    PICTURE,
    THUMBNAIL,
    PictureFacts,
    PictureOrder,
    ThumbnailFacts,
    ThumbnailOrder,
)
from homeserver.media.sandbox import Given, Sandbox
from homeserver.media.sandbox_orders import SandboxBounds
from homeserver.media.turns import Turns
from homeserver.rules.media.thumbnail_sizes import Method
from homeserver.storage.database import Database
from homeserver.storage.migrate import migrate
from local_postgres import EmbeddedCluster
from tests.homeserver.media_world import MediaWorld
from tests.homeserver.view_world import MANY, Views

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
TIMES = 12
WANTED = ThumbnailOrder(Method.SCALE, 800, 600, is_animated=False)


def photograph(kind: str, size: tuple[int, int], seed: int) -> bytes:
    """A picture with the detail of a photograph: noise, enlarged."""
    chance = random.Random(seed)
    small = (size[0] // 4, size[1] // 4)
    noise = Image.frombytes("RGB", small, chance.randbytes(3 * small[0] * small[1]))
    out = io.BytesIO()
    noise.resize(size, Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()


def by_pillow(data: bytes) -> bytes:
    """The thumbnail as Pillow's own method makes it."""
    picture = Image.open(io.BytesIO(data))
    picture.thumbnail((WANTED.width, WANTED.height))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return out.getvalue()


def cpu_ms() -> float:
    """CPU of this process and of those that ended."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(one) for one in who]
    return 1000 * sum(one.ru_utime + one.ru_stime for one in used)


async def measured(work: Callable[[list[bytes]], Awaitable[None]], data: list[bytes]) -> float:
    """CPU of a piece of work, all its processes ended."""
    before = cpu_ms()
    await work(data)
    return cpu_ms() - before


async def parts_of(data: bytes) -> AsyncIterator[bytes]:
    """Yields the picture as the store does."""
    step = 256 * 1024
    for start in range(0, len(data), step):
        yield data[start : start + step]


async def pillow_alone(data: list[bytes]) -> None:
    for one in data:
        by_pillow(one)


async def in_the_sandbox(data: list[bytes]) -> None:
    sandbox = Sandbox(SandboxBounds(MODULES), Turns(MANY))
    for one in data:
        given = Given(len(one), parts_of(one))
        facts, _ = await sandbox.run(THUMBNAIL, WANTED, given, ThumbnailFacts)
        assert facts.width == WANTED.width
    await sandbox.close()


async def only_started(data: list[bytes]) -> None:
    sandbox = Sandbox(SandboxBounds(MODULES), Turns(MANY))
    given = Given(len(data[0]), parts_of(data[0]))
    await sandbox.run(PICTURE, PictureOrder(), given, PictureFacts)
    await sandbox.close()


@pytest.mark.parametrize(
    ("kind", "size"),
    [("JPEG", (4032, 3024)), ("JPEG", (1600, 1200)), ("PNG", (1920, 1440)), ("WEBP", (1600, 1200))],
)
async def test_thumbnails(
    postgres_cluster: EmbeddedCluster, tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    url = await postgres_cluster.ensure_database(f"thumbnails_{kind.lower()}_{size[0]}")
    database = await Database.open(url)
    await migrate(database)
    world = MediaWorld(database, tmp_path / "media")

    async def by_the_service(data: list[bytes]) -> None:
        views = Views(world, MANY)
        for one in data:
            mxc = await world.upload(one, content_type=f"image/{kind.lower()}")
            await views.find(mxc, 600, Method.SCALE)
        await views.sandbox.close()

    async def upload(data: list[bytes]) -> None:
        for one in data:
            await world.upload(one)

    data = [photograph(kind, size, seed) for seed in range(TIMES)]
    first = data[:1]
    await pillow_alone(first)
    start = min([await measured(only_started, first) for _ in range(3)])
    alone = await measured(pillow_alone, data) / TIMES
    sandbox = (await measured(in_the_sandbox, data) - start) / TIMES
    uploads = await measured(upload, data)
    service = (await measured(by_the_service, data) - uploads - start) / TIMES
    sys.stderr.write(
        f"\n{kind} {size[0]}x{size[1]}, {len(data[0]) // 1024} KiB: Pillow {alone:.1f} ms, "
        f"sandbox {sandbox:.1f} ({sandbox / alone:.2f}), service {service:.1f} "
        f"({service / alone:.2f}); start of the sandbox {start:.0f} ms\n"
    )
    await database.close()
    assert alone > 0
