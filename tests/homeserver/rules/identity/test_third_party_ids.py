"""Third-party identifiers, names of proofs, and where a browser may go."""

from __future__ import annotations

import pytest

from homeserver import limits
from homeserver.rules.identity.third_party_ids import canonical_address, is_opaque, is_within

ALLOWED = ("https://app.example/x", "http://localhost:8080")


@pytest.mark.parametrize("text", ["a", "0", "A.=_-z", "x" * limits.VALIDATION_NAME_CHARACTERS])
def test_an_opaque_name(text: str) -> None:
    assert is_opaque(text)


@pytest.mark.parametrize(
    "text", ["", "a b", "ä", "a\n", "\0", "a/b", "x" * (limits.VALIDATION_NAME_CHARACTERS + 1)]
)
def test_what_is_no_opaque_name(text: str) -> None:
    assert not is_opaque(text)


@pytest.mark.parametrize(
    ("medium", "address", "canonical"),
    [
        ("email", "Anna@X.org", "anna@x.org"),
        ("email", "x", None),
        ("msisdn", "447700900001", "447700900001"),
        ("msisdn", "+447700900001", None),
        ("msisdn", "١٢٣", None),
        ("msisdn", "1" * limits.MSISDN_DIGITS, "1" * limits.MSISDN_DIGITS),
        ("msisdn", "1" * (limits.MSISDN_DIGITS + 1), None),
        ("fax", "1", None),
    ],
)
def test_an_address_has_one_form(medium: str, address: str, canonical: str | None) -> None:
    assert canonical_address(medium, address) == canonical


@pytest.mark.parametrize(
    "link",
    [
        "https://app.example/x",
        "https://app.example/x/",
        "https://app.example/x/y?z#w",
        "HTTPS://APP.example/x",
        "http://localhost:8080",
        "http://localhost:8080/any",
    ],
)
def test_a_link_below_an_allowed_place(link: str) -> None:
    assert is_within(link, ALLOWED)


@pytest.mark.parametrize(
    "link",
    [
        "https://app.example",
        "https://app.example/xy",
        "https://app.example/x/../y",
        "https://app.example/x/%2e%2e/y",
        "https://app.example.evil/x",
        "https://app.example@evil.example/x",
        "https://app.example:444/x",
        "https://user@app.example/x",
        "http://app.example/x",
        "http://localhost/any",
        "http://localhost:80800/",
        "//app.example/x",
        "/x",
        "javascript:alert(1)//app.example/x",
        "data:text/html,x",
        "https://app.example\\@evil.example/x",
        "https://app.example/x\r\nLocation: y",
        "https://app.example/x y",
        "https://[::1/x",
        "",
    ],
)
def test_a_link_that_leads_elsewhere(link: str) -> None:
    assert not is_within(link, ALLOWED)


def test_nothing_is_below_no_place() -> None:
    assert not is_within("https://app.example/x", ())
