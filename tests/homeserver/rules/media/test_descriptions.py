"""Types and file names of other servers."""

import pytest

from homeserver import limits
from homeserver.rules.media.descriptions import remote_content_type, remote_file_name


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("image/png", "image/png"),
        (None, "application/octet-stream"),
        ("text/html\r\nSet-Cookie: a=b", "application/octet-stream"),
        ("nonsense", "application/octet-stream"),
    ],
)
def test_a_type_is_one_or_it_is_octets(text: str | None, stored: str) -> None:
    assert remote_content_type(text) == stored


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("picture.png", "picture.png"),
        ("Bild \N{EURO SIGN} \N{GRINNING FACE}.png", "Bild \N{EURO SIGN} \N{GRINNING FACE}.png"),
        (None, None),
        ("", None),
        ("../../etc/passwd", "passwd"),
        ("C:\\Windows\\system.ini", "system.ini"),
        ("folder/", None),
        ("a\r\nSet-Cookie: b\0\x7f.png", "aSet-Cookie: b.png"),
        ("half\ud800.png", "half.png"),
        ("picture\u202egnp.exe", "picturegnp.exe"),
        ("\n\t ", None),
    ],
)
def test_a_file_name_is_made_fit_to_be_stored(text: str | None, stored: str | None) -> None:
    assert remote_file_name(text) == stored


def test_a_long_file_name_is_cut() -> None:
    most = limits.MEDIA_NAME_CHARACTERS
    assert remote_file_name("x" * most) == "x" * most
    assert remote_file_name("x" * (most + 1)) == "x" * most
