"""matrix-nio uploads and downloads on our servers: plain files, encrypted attachments, avatars."""

from __future__ import annotations

import io
import os

import nio as sdk
import pytest
from nio.crypto.attachments import decrypt_attachment
from PIL import Image

from tests.interop.conftest import NioEntry
from tests.interop.nio_person import good

pytestmark = [pytest.mark.processes]


async def test_a_file_goes_up_and_comes_down_with_its_name_and_type(nio: NioEntry) -> None:
    nina, nils = await nio("nina"), await nio("nils")
    data, name = os.urandom(300_000), "Blumen am See.png"
    sent, keys = await nina.client.upload(io.BytesIO(data), "image/png", name, filesize=len(data))
    uri = good(sent).content_uri
    assert keys is None
    found = good(await nils.client.download(uri))
    assert isinstance(found, sdk.MemoryDownloadResponse)
    assert (found.body, found.content_type, found.filename) == (data, "image/png", name)
    named = good(await nils.client.download(uri, filename="other.png"))
    assert (named.body, named.filename) == (data, "other.png")
    config = good(await nina.client.content_repository_config())
    assert config.upload_size == 100 * 1024 * 1024
    good(await nina.client.set_avatar(uri))
    assert good(await nils.client.get_avatar(nina.user_id)).avatar_url == uri


async def test_an_encrypted_attachment_is_opaque_and_read_by_who_has_the_key(
    nio: NioEntry,
) -> None:
    nina, nils = await nio("nina"), await nio("nils")
    data = b"secret " * 10_000
    sent, keys = await nina.client.upload(
        io.BytesIO(data), "text/plain", "secret.txt", encrypt=True, filesize=len(data)
    )
    assert keys is not None
    found = good(await nils.client.download(good(sent).content_uri))
    assert b"secret" not in found.body
    assert found.content_type == "application/octet-stream"
    opened = decrypt_attachment(found.body, keys["key"]["k"], keys["hashes"]["sha256"], keys["iv"])
    assert opened == data


async def test_what_is_not_there_is_said(nio: NioEntry) -> None:
    nina = await nio("nina")
    missing = await nina.client.download("mxc://hs1/nothing")
    assert isinstance(missing, sdk.DownloadError)
    assert missing.status_code == "M_NOT_FOUND"


async def test_a_picture_has_thumbnails(nio: NioEntry) -> None:
    """nio uploads it and asks for them; Pillow says what they are."""
    nina = await nio("nina")
    out = io.BytesIO()
    Image.linear_gradient("L").resize((400, 300)).save(out, "PNG")
    uploaded, _ = await nina.client.upload(
        lambda *_: out.getvalue(), "image/png", "a.png", filesize=len(out.getvalue())
    )
    server, media_id = str(good(uploaded).content_uri).removeprefix("mxc://").split("/")
    for method, side, size in (
        (sdk.ResizingMethod.crop, 90, (96, 96)),
        (sdk.ResizingMethod.scale, 90, (96, 72)),
        (sdk.ResizingMethod.scale, 1_000, (400, 300)),
    ):
        found = good(await nina.client.thumbnail(server, media_id, side, side, method))
        assert Image.open(io.BytesIO(found.body)).size == size
    wrong = await nina.client.thumbnail(server, "nothing", 90, 90)
    assert isinstance(wrong, sdk.ThumbnailError)
    assert wrong.transport_response is not None
    assert wrong.transport_response.status == 404
