"""Media of a user: uploaded and downloaded by the client-server API, the same on both servers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from PIL import Image

from tests.interop.synapse.person import REQUEST_S, JsonObject, Person


@dataclass(frozen=True, slots=True)
class Downloaded:
    """An answer with bytes; `error` is its JSON where it was refused."""

    status: int
    content: bytes
    headers: Mapping[str, str]
    error: JsonObject

    @property
    def refusal(self) -> tuple[int, str]:
        """Return the status and the code of a refusal."""
        return self.status, str(self.error.get("errcode"))


def picture(width: int = 320, height: int = 240) -> bytes:
    """Return a PNG with a gradient."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


def size_of(content: bytes) -> tuple[int, int]:
    """Return the width and height of an image."""
    with Image.open(io.BytesIO(content)) as image:
        return image.size


async def upload(person: Person, content: bytes, content_type: str, file_name: str) -> str:
    """Upload media; return their URI without its scheme: server name and media ID."""
    async with person.session.post(
        f"{person.url}/_matrix/media/v3/upload",
        data=io.BytesIO(content),
        params={"filename": file_name},
        headers=_headers(person, content_type),
        timeout=aiohttp.ClientTimeout(total=REQUEST_S),
    ) as answer:
        body = await answer.json()
        assert answer.status == 200, (person.user_id, body)
        return str(body["content_uri"]).removeprefix("mxc://")


async def reserve(person: Person) -> str:
    """Return the URI of media whose upload is still to come."""
    async with person.session.post(
        f"{person.url}/_matrix/media/v1/create", headers=_headers(person)
    ) as answer:
        body = await answer.json()
        assert answer.status == 200, (person.user_id, body)
        return str(body["content_uri"]).removeprefix("mxc://")


async def upload_to(person: Person, place: str, content: bytes, content_type: str) -> None:
    """Upload media for a reserved URI."""
    async with person.session.put(
        f"{person.url}/_matrix/media/v3/upload/{place}",
        data=io.BytesIO(content),
        headers=_headers(person, content_type),
    ) as answer:
        assert answer.status == 200, (person.user_id, await answer.text())


async def download(person: Person, place: str, kind: str = "download", **query: str) -> Downloaded:
    """Download media, or a thumbnail of them, from the person's own server."""
    async with person.session.get(
        f"{person.url}/_matrix/client/v1/media/{kind}/{place}",
        params=query,
        headers=_headers(person),
        timeout=aiohttp.ClientTimeout(total=REQUEST_S),
    ) as answer:
        content = await answer.read()
        error: JsonObject = {} if answer.status == 200 else await answer.json()
        return Downloaded(answer.status, content, answer.headers, error)


def _headers(person: Person, content_type: str = "application/json") -> dict[str, str]:
    return {"Authorization": f"Bearer {person.token}", "Content-Type": content_type}
