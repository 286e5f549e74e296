"""Media of a hostile server, downloaded by a user of ours; and what that server may have of ours.

Spec: server-server API, "Content Repository"; client-server API, "Content Repository" (security
considerations).
"""

from __future__ import annotations

from itertools import count

import pytest

from federation.transport.requests import backoff
from tests.hostile.clients.running_server import Reply
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import V1, Http

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIXED = {"Content-Type": "multipart/mixed; boundary=b"}
META = b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n"
END = b"\r\n--b--\r\n"
_ids = count()


def part(content: bytes, *headers: str) -> bytes:
    """The part with the media."""
    return b"--b\r\n" + "".join(f"{line}\r\n" for line in headers).encode() + b"\r\n" + content


@pytest.fixture(autouse=True)
def no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer is asked again at once, whatever it answered before."""
    monkeypatch.setattr(backoff, "BACKOFF_S_MIN", 0.0)


async def served(world: World, answer: Http) -> Reply:
    """What alice gets of media for which the peer has such an answer."""
    media_id = f"m{next(_ids)}"
    world.evil.answers["/media/download/"] = lambda path, body: answer
    try:
        path = f"/_matrix/client/v1/media/download/{world.evil.name}/{media_id}"
        reply = await world.server.call("GET", path, by=world.alice)
    finally:
        world.evil.answers.clear()
    assert any(f"/media/download/{media_id}?" in path for _, path, _ in world.evil.asked)
    return reply


@pytest.mark.parametrize(
    "answer",
    [
        Http(200, b""),
        Http(200, b"{}", {"Content-Type": "application/json"}),
        Http(200, b"x" * 1_000_000, {"Content-Type": "multipart/mixed; boundary=" + "b" * 71}),
        Http(200, META, MIXED),
        Http(200, META + part(b"broken off"), MIXED),
        Http(200, META + part(b"one") + b"\r\n" + part(b"two") + END, MIXED),
        Http(200, META + b"--b\r\n" + b"A: 1\r\n" * 100_000 + b"\r\nx" + END, MIXED),
        Http(200, META + b"--b\r\nA: " + b"x" * 1_000_000, MIXED),
        Http(200, b"x" * 1_000_000 + META + part(b"x") + END, MIXED),
        Http(200, META.replace(b"{}", b"[" * 1_000_000) + part(b"x") + END, MIXED),
        Http(200, META + part(b"x") + END + b"x" * 1_000_000, MIXED),
        Http(200, META + part(b"", "Location: http://127.0.0.1/") + END, MIXED),
        Http(200, META + part(b"", "Location: https://127.0.0.1:8448/") + END, MIXED),
        Http(200, META + part(b"", "Location: https://[::1]/") + END, MIXED),
        Http(200, META + part(b"", "Location: https://localhost/") + END, MIXED),
        Http(200, META + part(b"", "Location: file:///etc/passwd") + END, MIXED),
        Http(200, META + part(b"x", "Content-Encoding: gzip") + END, MIXED),
        Http(200, META + part(b"x") + END, {**MIXED, "Content-Encoding": "deflate"}),
        Http(302, b"", {"Location": "https://127.0.0.1/"}),
        Http(404, b"x" * 1_000_000),
        Http(500, b"\xff"),
    ],
)
async def test_answers_that_are_no_media_give_none_and_keep_nothing(
    world: World, answer: Http
) -> None:
    before = await world.server.rows()
    reply = await served(world, answer)
    assert reply.status in (404, 502, 504), reply
    assert reply.errcode in ("M_NOT_FOUND", "M_UNKNOWN", "M_TOO_LARGE"), reply
    assert await world.server.rows() == before
    await world.is_up()


@pytest.mark.parametrize(
    ("content_type", "served_as"),
    [
        ("text/html", "text/html"),
        ("image/svg+xml", "image/svg+xml"),
        ("text/html\tx", "application/octet-stream"),
        ('image/png; a="\\"', "application/octet-stream"),
    ],
)
async def test_active_content_is_an_attachment_that_may_do_nothing(
    world: World, content_type: str, served_as: str
) -> None:
    headers = (f"Content-Type: {content_type}", "Content-Disposition: inline; filename=a.html")
    reply = await served(world, Http(200, META + part(b"<script>", *headers) + END, MIXED))
    assert (reply.status, reply.body) == (200, b"<script>")
    assert reply.headers["Content-Type"] == served_as
    assert reply.headers["Content-Disposition"].startswith("attachment")
    assert "sandbox" in reply.headers["Content-Security-Policy"]
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_file_name_can_not_add_a_header(world: World) -> None:
    name = "a%0D%0ASet-Cookie:%20b=c%0D%0A%22;x=y"
    headers = ("Content-Type: image/png", f"Content-Disposition: inline; filename*=utf-8''{name}")
    reply = await served(world, Http(200, META + part(b"x", *headers) + END, MIXED))
    assert reply.status == 200
    assert "Set-Cookie" not in reply.headers
    assert reply.headers["Content-Disposition"].startswith("inline; filename")


@pytest.mark.parametrize(
    "name",
    ["..", "127.0.0.1", "localhost", "[::1]", "169.254.169.254", "evil.example:0", "a%2Fb", "%00"],
)
async def test_names_that_lead_inside_or_nowhere_are_not_asked(world: World, name: str) -> None:
    path = f"/_matrix/client/v1/media/download/{name}/abc"
    reply = await world.server.call("GET", path, by=world.alice)
    assert reply.status in (400, 404, 502), reply
    assert reply.errcode.startswith("M_")


@pytest.mark.parametrize(
    "media_id", ["..", "%2E%2E", "a%2Fb", "..%2F..%2Fetc", "%00", "ä", "x" * 300, "a%0D%0A"]
)
async def test_ids_that_are_paths_are_not_there(world: World, media_id: str) -> None:
    reply = await world.evil.request("GET", f"{V1}/media/download/{media_id}")
    assert reply.status in (400, 404, 405), reply


async def test_a_peer_has_no_media_of_others_through_this_server(world: World) -> None:
    """Media are served by their own server alone."""
    answer = Http(200, META + part(b"x", "Content-Type: image/png") + END, MIXED)
    world.other.answers["/media/download/"] = lambda path, body: answer
    path = f"/_matrix/client/v1/media/download/{world.other.name}/cached"
    assert (await world.server.call("GET", path, by=world.alice)).status == 200
    reply = await world.evil.request("GET", f"{V1}/media/download/cached")
    assert (reply.status, reply.errcode) == (404, "M_NOT_FOUND")
    old = f"/_matrix/media/v3/download/{world.other.name}/cached?allow_remote=false"
    assert (await world.evil.request("GET", old)).status == 404
