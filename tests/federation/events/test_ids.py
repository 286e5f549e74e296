"""Identifiers: the grammar of the appendices, on both sides of each border."""

from __future__ import annotations

import pytest

from federation.events import ids
from federation.events.ids import InvalidIdentifier
from federation.limits import HOST_CHARACTERS_MAX


@pytest.mark.parametrize(
    "text",
    [
        "matrix.org",
        "matrix.org:8888",
        "1.2.3.4",
        "1.2.3.4:1234",
        "255.0.3.255",
        "[1234:5678::abcd]",
        "[1234:5678::abcd]:5678",
        "localhost",
        "MATRIX.org",
        "a" * 255,
    ],
)
def test_a_server_name_is_accepted(text: str) -> None:
    assert ids.parse_server_name(text) == text


@pytest.mark.parametrize(
    "text",
    ["", ":80", "a b", "a_b.org", "é.org", "a:123456", "a:", "[::1", "1.2.3.256", "a\n", "a" * 256],
)
def test_no_server_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidIdentifier):
        ids.parse_server_name(text)


LABEL = "a" * 63
LONGEST = ".".join([LABEL, LABEL, LABEL, "a" * (HOST_CHARACTERS_MAX - 3 * 64)])


@pytest.mark.parametrize(
    "text",
    [
        "matrix.org",
        "MATRIX.org:1",
        "localhost:65535",
        "xn--bcher-kva.example",
        "a-b.-c-.1",
        "1.2.3.4:8448",
        "255.255.255.255",
        "1.2.3",
        "[::1]",
        "[1234:5678::abcd]:5678",
        "[::ffff:1.2.3.4]",
        LABEL,
        LONGEST,
    ],
)
def test_a_server_may_have_that_name(text: str) -> None:
    assert ids.is_reachable_name(text)
    assert ids.parse_server_name(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a.",
        "a_b",
        "é.org",
        "a b",
        "a\n",
        "a:",
        "a:0",
        "a:65536",
        "a:123456",
        "a:b",
        "1.2.3.256",
        "[::1",
        "[1.2.3.4]",
        "[:::]",
        "[12345::]",
        "::1",
        f"{LABEL}a",
        f"a.{LABEL}a.b",
        f"{LONGEST}a",
        "a." * 126 + "aaaa",
    ],
)
def test_no_server_can_have_that_name(text: str) -> None:
    assert not ids.is_reachable_name(text)


@pytest.mark.parametrize(
    "text", ["@a:b", "@:b", "@A b\n:b", "@é:b", "@a:b:80", "@" + "a" * 252 + ":b", "@a/+=:b"]
)
def test_a_historical_user_id_is_accepted(text: str) -> None:
    assert ids.parse_user_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "a:b",
        "@a",
        "@a:",
        "@a\0:b",
        "@\ud800:b",
        "@a:b_c",
        "@" + "a" * 253 + ":b",
        "@" + "é" * 127 + ":b",
    ],
)
def test_no_user_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidIdentifier):
        ids.parse_user_id(text)


def test_length_is_counted_in_bytes() -> None:
    assert len(ids.parse_user_id("@" + "é" * 126 + ":b").encode()) == 255


@pytest.mark.parametrize("text", ["a", "a.b_c=d-e/f+9", "0" * 255])
def test_a_localpart_for_registration_is_accepted(text: str) -> None:
    assert ids.parse_localpart(text) == text


@pytest.mark.parametrize("text", ["", "A", "a:b", "é", "a b", "a\n", "0" * 256])
def test_another_localpart_is_not_registered(text: str) -> None:
    with pytest.raises(InvalidIdentifier):
        ids.parse_localpart(text)


@pytest.mark.parametrize("text", ["!a:b", "!:b", "!é x:b", "!" + "A" * 43])
def test_a_room_id_is_accepted(text: str) -> None:
    assert ids.parse_room_id(text) == text


@pytest.mark.parametrize("text", ["", "!", "a:b", "!a\0:b", "!a:", "!" + "A" * 42, "!" + "A" * 44])
def test_no_room_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidIdentifier):
        ids.parse_room_id(text)


@pytest.mark.parametrize("text", ["!a:b", "!" + "+" * 43, "$" + "A" * 43])
def test_a_room_id_with_domain_or_another_alphabet_is_no_hash(text: str) -> None:
    with pytest.raises(InvalidIdentifier):
        ids.parse_hash_room_id(text)


@pytest.mark.parametrize("text", ["$a", "$a:b", "$" + "x" * 254])
def test_an_event_id_is_accepted(text: str) -> None:
    assert ids.parse_event_id(text) == text


@pytest.mark.parametrize("text", ["", "$", "a", "$a\0", "$" + "x" * 255, "$" + "é" * 128])
def test_no_event_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidIdentifier):
        ids.parse_event_id(text)


def test_a_room_alias_is_parsed() -> None:
    assert ids.parse_room_alias("#a b:c") == "#a b:c"
    with pytest.raises(InvalidIdentifier):
        ids.parse_room_alias("@a:c")


def test_the_server_is_what_follows_the_first_colon() -> None:
    assert ids.server_of("@a:b:80") == "b:80"


def test_a_text_without_a_colon_has_no_server() -> None:
    assert ids.server_of("no user") == ""
    assert ids.server_of("") == ""


def test_a_text_is_a_user_id_when_it_is_read_as_one() -> None:
    assert ids.is_user_id("@A b:c")
    for text in ("", "no user", "@a", "@a:b c", "a:b", "@\0:b", "$a:b"):
        assert not ids.is_user_id(text)
