"""Media, for the operator: lists, quarantine, deletion, usage."""

from __future__ import annotations

from pathlib import Path

import pytest

from homeserver import limits
from homeserver.rules.media.mxc import Mxc
from homeserver.services.admin.media import MediaAdministration
from homeserver.storage.database import Database
from homeserver.storage.media.overview import Usage
from homeserver.storage.media.quarantine import QuarantineTable
from tests.homeserver.media_world import ALICE, BOB, ELSEWHERE, HERE, MediaWorld, refused
from tests.homeserver.storage.conftest import database

__all__ = ["database"]


@pytest.fixture
def world(database: Database, tmp_path: Path) -> MediaWorld:
    return MediaWorld(database, tmp_path / "media")


@pytest.fixture
def admin(world: MediaWorld) -> MediaAdministration:
    return MediaAdministration(world.database, HERE, world.store, world.clock)


async def test_all_media_are_listed_page_by_page(
    world: MediaWorld, admin: MediaAdministration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEDIA_READ_AT_ONCE", 2)
    mine = [await world.upload(bytes([number])) for number in range(3)]
    bobs, far = await world.upload(b"b", by=BOB), await world.keep_remote("far")

    async def listed(**which: str | bool) -> set[str]:
        return {item.mxc.media_id async for item in admin.all(**which)}  # type: ignore[arg-type]

    assert len(await listed()) == 5
    assert await listed(user="alice") == await listed(user=ALICE) == {m.media_id for m in mine}
    assert await listed(server=ELSEWHERE) == {far.media_id}
    await admin.quarantine(bobs.uri)
    assert await listed(is_quarantined=True) == {bobs.media_id}


async def test_a_quarantine_holds_although_the_media_come_just_then(
    world: MediaWorld, admin: MediaAdministration, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = QuarantineTable.add
    tried: list[Mxc] = []

    async def and_then_they_come(table: QuarantineTable, mxc: Mxc) -> bool:
        found = await add(table, mxc)
        if not tried:
            await world.keep_remote("far", b"bad")
        tried.append(mxc)
        return found

    monkeypatch.setattr(QuarantineTable, "add", and_then_they_come)
    far = await admin.quarantine(f"mxc://{ELSEWHERE}/far")
    copy = await world.upload(b"bad")
    for mxc in (far, copy):
        async with refused(404, "M_NOT_FOUND"):
            await world.read(mxc)


async def test_a_quarantine_begins_and_ends(world: MediaWorld, admin: MediaAdministration) -> None:
    mxc = await world.upload()
    await admin.quarantine(mxc.uri)
    async with refused(404, "M_NOT_FOUND"):
        await world.read(mxc)
    await admin.release(mxc.uri)
    assert await world.read(mxc) == b"content"
    unseen = await admin.quarantine("mxc://hs2/unseen")
    assert (await world.item(unseen)).is_quarantined


async def test_what_is_deleted_frees_its_space(
    world: MediaWorld, admin: MediaAdministration
) -> None:
    mxc = await world.upload(b"one")
    await world.upload(b"two")
    bobs = await world.upload(b"two", by=BOB)
    world.clock.at_ms += limits.MEDIA_UNREFERENCED_MS + 1
    assert await admin.stored_bytes() == 6
    await admin.delete(mxc.uri)
    assert await admin.stored_bytes() == 3
    assert await admin.delete_uploads("alice") == 1
    assert world.files == ["blobs"]
    assert await admin.usage() == [Usage(BOB, True, 1, 3)]
    await admin.delete(bobs.uri)
    assert world.files == []


async def test_mistakes_are_said(admin: MediaAdministration) -> None:
    for work in (admin.quarantine, admin.release, admin.delete):
        async with refused(404, "M_NOT_FOUND"):
            await work("mxc://hs1/unknown")
        async with refused(400, "M_INVALID_PARAM"):
            await work("https://hs1/unknown")
    async with refused(404, "M_NOT_FOUND"):
        await admin.release("mxc://hs2/unknown")
    async with refused(404, "M_NOT_FOUND"):
        await admin.delete_uploads("@bob:hs2")
    async with refused(400, "M_INVALID_PARAM"):
        async for _ in admin.all(server="hs/2"):
            pass
