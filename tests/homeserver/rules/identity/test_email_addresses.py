"""E-mail addresses that are valid, and those that are one."""

from __future__ import annotations

import pytest

from homeserver import limits
from homeserver.rules.identity.email_addresses import (
    InvalidEmail,
    ascii_domain,
    canonical_email,
    parse_email,
)


@pytest.mark.parametrize(
    "text",
    [
        "a@b",
        "anna.o+tag@example.org",
        "o'neil@example.org",
        "x@sub.example.co.uk",
        "änna@bücher.example",
        "用户@例え.jp",
    ],
)
def test_an_address_is_read_as_it_was_typed(text: str) -> None:
    assert parse_email(f" {text} ") == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "anna",
        "@example.org",
        "anna@",
        "anna@@example.org",
        "a b@example.org",
        "anna@exa mple.org",
        "anna@example.org\r\nRCPT TO:<b@example.org>",
        "anna\r\n@example.org",
        "anna\0@example.org",
        "an\u2028na@example.org",
        "anna@example.org,ben@example.org",
        "<anna@example.org>",
        '"anna"@example.org',
        "anna(x)@example.org",
        "anna@-example.org",
        "anna@example-.org",
        "anna@example..org",
        "anna@.example.org",
        "anna@[127.0.0.1]",
        "anna@example.org:25",
        "anna@example.org>",
        "-anna@example.org",
        ".anna@example.org",
        "an..na@example.org",
        "anna@exa_mple.org",
        "anna@\udc80.org",
        "x@a\u05d0.com",
        f"x@{'ä' * 60}.org",
        "x@a\u2474.com",  # its form in a mail is a(1).com
        "x@a\u037a.com",  # has a blank
    ],
)
def test_what_could_mean_something_else_is_no_address(text: str) -> None:
    with pytest.raises(InvalidEmail):
        parse_email(text)


@pytest.mark.parametrize(
    ("domain", "form"),
    [
        ("Example.ORG", "Example.ORG"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("例え.jp", "xn--r8jz45g.jp"),
    ],
)
def test_the_form_of_a_domain_in_a_mail(domain: str, form: str) -> None:
    assert ascii_domain(domain) == form


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Anna@Example.ORG", "anna@example.org"),
        ("STRASSE@example.org", "straße@example.org"),
        ("ΣΊΣΥΦΟΣ@example.org", "σίσυφος@example.org"),
    ],
)
def test_two_addresses_are_one_by_case_folding(first: str, second: str) -> None:
    assert canonical_email(first) == canonical_email(second)


def test_the_folded_form_is_bounded_too() -> None:
    half = limits.EMAIL_LOCAL_CHARACTERS // 2
    assert canonical_email(f"{'ß' * half}@example.org") == f"{'ss' * half}@example.org"
    with pytest.raises(InvalidEmail):
        canonical_email(f"{'ß' * (half + 1)}@example.org")


def test_the_longest_parts_that_fit() -> None:
    local = "x" * limits.EMAIL_LOCAL_CHARACTERS
    assert parse_email(f"{local}@example.org")
    with pytest.raises(InvalidEmail):
        parse_email(f"x{local}@example.org")
    label = "y" * limits.HOST_LABEL_CHARACTERS
    assert parse_email(f"a@{label}.org")
    with pytest.raises(InvalidEmail):
        parse_email(f"a@y{label}.org")
    rest = limits.EMAIL_CHARACTERS - len("a@") - 3 * (len(label) + 1)
    domain = f"{label}.{label}.{label}." + "z" * rest
    assert len(f"a@{domain}") == limits.EMAIL_CHARACTERS
    with pytest.raises(InvalidEmail):
        parse_email(f"a@{domain}z")
