"""mxc URIs: what is one, and what could be a path."""

from __future__ import annotations

import pytest

from federation.events.ids import ServerName
from homeserver import limits
from homeserver.rules.media.mxc import InvalidMxc, Mxc, build_mxc, parse_mxc, parse_mxc_parts

LONGEST = "a" * limits.MEDIA_ID_CHARACTERS


@pytest.mark.parametrize(
    "uri",
    [
        "mxc://matrix.org/AQwafuaFswefuhsfAFAgsw",
        "mxc://hs1:8448/a",
        "mxc://[::1]:1/_-09aZ",
        f"mxc://hs1/{LONGEST}",
    ],
)
def test_a_uri_is_its_parts(uri: str) -> None:
    assert parse_mxc(uri).uri == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "mxc://",
        "mxc://hs1",
        "mxc://hs1/",
        "mxc:///a",
        "hs1/a",
        "http://hs1/a",
        "mxc://127.0.0.1/../../../some_service/etc/passwd",
        "mxc://hs1/..",
        "mxc://hs1/a.b",
        "mxc://hs1/a/b",
        "mxc://hs1/a%2e",
        "mxc://hs1/a\n",
        "mxc://hs1/ä",
        "mxc://hs 1/a",
        "mxc://hs1\n/a",
        f"mxc://hs1/{LONGEST}a",
    ],
)
def test_what_could_be_a_path_is_no_uri(uri: str) -> None:
    with pytest.raises(InvalidMxc):
        parse_mxc(uri)


def test_a_new_uri_is_a_uri() -> None:
    made = build_mxc(ServerName("hs1"), bytes(range(limits.MEDIA_ID_BYTES)))
    assert parse_mxc(made.uri) == made == parse_mxc_parts("hs1", made.media_id)
    assert made == Mxc(ServerName("hs1"), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX")
