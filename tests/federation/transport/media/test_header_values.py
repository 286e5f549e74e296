"""Types and file names, as honest and hostile servers write them."""

import pytest

from federation.transport.media.header_values import (
    HeaderValue,
    parse_file_name,
    parse_header_value,
)


@pytest.mark.parametrize(
    ("text", "word", "parameters"),
    [
        ("multipart/mixed; boundary=abc", "multipart/mixed", {"boundary": "abc"}),
        ('Multipart/Mixed;Boundary="a b"', "multipart/mixed", {"boundary": "a b"}),
        (' text/plain ; charset = "utf-8" ; x=y', "text/plain", {"charset": "utf-8", "x": "y"}),
        (r'a; b="c\"d\\e"', "a", {"b": 'c"d\\e'}),
        ("a; b=1; B=2", "a", {"b": "1"}),
        ('a; x="boundary=b"; c=d', "a", {"x": "boundary=b", "c": "d"}),
        ("a; b=", "a", {"b": ""}),
        ("", "", {}),
        (";", "", {}),
        ("a; b", "a", {}),
        ('a; b="unfinished', "a", {"b": ""}),
        ("a; b=c d; e=f", "a", {"b": "c"}),
    ],
)
def test_a_value_is_a_word_and_parameters(text: str, word: str, parameters: dict[str, str]) -> None:
    assert parse_header_value(text) == HeaderValue(word, parameters)


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("inline; filename=a.png", "a.png"),
        ('attachment; filename="a b.png"', "a b.png"),
        ("inline; filename*=utf-8''%E2%82%AC.png; filename=x", "€.png"),
        ("inline; filename=x; filename*=UTF-8'en'na%20me", "na me"),
        ("inline; filename*=iso-8859-1''%e9", "é"),
        ("inline; filename=x; filename*=utf-7''+2AA-", "x"),
        ("inline; filename=x; filename*=rot13''nop", "x"),
        ("inline; filename*=utf-8''%ff", "\N{REPLACEMENT CHARACTER}"),
        ('inline; filename="ü.png"', "ü.png"),
        ('inline; filename=""', None),
        ("inline", None),
        ("", None),
        ('form-data; name="filename=x"', None),
        ('inline; filename="../../etc/passwd"', "../../etc/passwd"),
    ],
)
def test_a_file_name_is_found_in_either_form(disposition: str, name: str | None) -> None:
    assert parse_file_name(disposition) == name


def test_a_long_value_takes_no_longer_for_being_malformed() -> None:
    """The time is linear: this one, 200 kB long, would not end otherwise."""
    text = "a" + "; b=" * 50_000 + '"' + "\\" * 100
    assert parse_header_value(text).word == "a"
