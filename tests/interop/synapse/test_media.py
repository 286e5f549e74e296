"""Media between Synapse and Freehold, in both directions: each byte, the type and the name."""

from __future__ import annotations

import asyncio
import secrets
from email.message import Message

import pytest
import pytest_asyncio

from tests.interop.synapse.conftest import Enter, other
from tests.interop.synapse.person import DEADLINE_S, WAIT_S, Person
from tests.interop.synapse.servers import SIDES, Side
from tests.interop.synapse.shared_media import (
    download,
    picture,
    reserve,
    size_of,
    upload,
    upload_to,
)

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),  # the first of them may have to install Synapse
]

Two = tuple[Person, Person]
NOT_YET = {
    (504, "M_NOT_YET_UPLOADED"),
    (502, "M_UNKNOWN"),  # by Synapse, which takes that for a failure, and waits some time
}


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=SIDES, ids="from {}".format)
async def two(request: pytest.FixtureRequest, enter: Enter) -> Two:
    """Return a user who uploads, and one of the other server who downloads."""
    side: Side = request.param
    return await enter("sender", side), await enter("reader", other(side))


@pytest.mark.parametrize("name", ["picture.png", "Bild \N{EURO SIGN} \N{GRINNING FACE}.png"])
async def test_a_picture_is_the_same_with_its_type_and_name(two: Two, name: str) -> None:
    sender, reader = two
    content = picture()
    place = await upload(sender, content, "image/png", name)
    for _ in range(2):  # fetched, and kept
        there = await download(reader, place)
        assert there.content == content
        assert there.headers["Content-Type"] == "image/png"
        at_home = await download(sender, place)
        told = {one.headers["Content-Disposition"].partition(";")[0] for one in (there, at_home)}
        assert told == {"inline"}
        names = {parsed_name(one.headers["Content-Disposition"]) for one in (there, at_home)}
        assert names == {name}


def parsed_name(disposition: str) -> str | None:
    """Return the file name, as the standard library reads it."""
    message = Message()
    message["Content-Disposition"] = disposition
    return message.get_filename()


async def test_a_picture_of_the_other_server_has_a_thumbnail(two: Two) -> None:
    sender, reader = two
    place = await upload(sender, picture(320, 240), "image/png", "picture.png")
    wanted = {"width": "96", "height": "96", "method": "crop"}
    made = await download(reader, place, "thumbnail", **wanted)
    assert (made.status, size_of(made.content)) == (200, (96, 96)), made.error
    assert made.headers["Content-Type"].startswith("image/")


@pytest.mark.parametrize("size", [1, 65_536, 5_000_000])
async def test_bytes_that_mean_nothing_are_the_same(two: Two, size: int) -> None:
    """As those of an encrypted attachment."""
    sender, reader = two
    content = secrets.token_bytes(size)
    place = await upload(sender, content, "application/octet-stream", "attachment")
    assert (await download(reader, place)).content == content


async def test_many_ask_for_the_same_at_once(two: Two) -> None:
    sender, reader = two
    content = secrets.token_bytes(100_000)
    place = await upload(sender, content, "application/octet-stream", "x")
    found = await asyncio.gather(*(download(reader, place) for _ in range(10)))
    assert {one.content for one in found} == {content}


async def test_what_is_not_there_is_missing(two: Two) -> None:
    sender, reader = two
    missing = await download(reader, f"{sender.server}/{'x' * 24}")
    assert missing.refusal == (404, "M_NOT_FOUND")


async def test_what_is_not_yet_uploaded_can_be_had_once_it_is(two: Two) -> None:
    sender, reader = two
    place = await reserve(sender)
    waiting = await download(reader, place, timeout_ms="100")
    assert waiting.refusal in NOT_YET
    await upload_to(sender, place, b"late content", "text/plain")
    async with asyncio.timeout(DEADLINE_S):
        while (there := await download(reader, place, timeout_ms="20000")).status in (502, 504):
            await asyncio.sleep(WAIT_S)
    assert (there.status, there.content) == (200, b"late content")
