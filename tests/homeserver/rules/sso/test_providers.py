"""Providers of a configuration, and names that are made of what they say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from federation.events.ids import parse_localpart
from homeserver import limits
from homeserver.rules.sso.providers import (
    SsoProvider,
    fill,
    localpart_of,
    provider_problems,
    text_claims,
)

GOOD: dict[str, Any] = {
    "id": "a",
    "name": "A",
    "kind": "oidc",
    "url": "https://a.example",
    "client_id": "c",
    "client_secret": "s",
}


def problems(*tables: dict[str, Any], base: str = "https://hs1") -> list[str]:
    providers = [msgspec.convert(table, SsoProvider) for table in tables]
    return list(provider_problems(providers, base))


def test_good_providers_have_no_problem() -> None:
    cas = {"id": "b", "name": "B", "kind": "cas", "url": "http://b.example/cas"}
    assert problems(GOOD, cas) == []
    assert problems(base="") == []


@pytest.mark.parametrize(
    ("spoiled", "problem"),
    [
        ({"id": "a b"}, "is not an id"),
        ({"id": "x" * 256}, "is not an id"),
        ({"url": "ftp://x"}, "must begin with"),
        ({"client_secret": ""}, "needs client_id and client_secret"),
        ({"scopes": ("profile",)}, "must have openid"),
        ({"icon": "https://x"}, "must begin with mxc://"),
    ],
)
def test_each_mistake_is_named(spoiled: dict[str, Any], problem: str) -> None:
    (found,) = problems({**GOOD, **spoiled})
    assert problem in found


def test_browsers_need_somewhere_to_come_back_to() -> None:
    assert "public_baseurl" in problems(GOOD, base="")[0]


def test_ids_are_different_and_few() -> None:
    assert "an id of its own" in problems(GOOD, GOOD)[0]
    many = [{**GOOD, "id": f"p{number}"} for number in range(limits.SSO_PROVIDERS + 1)]
    assert problems(*many[:-1]) == []
    assert "are enough" in problems(*many)[0]


def test_clients_are_told_what_is_there() -> None:
    provider = msgspec.convert({**GOOD, "brand": "github"}, SsoProvider)
    assert provider.listed() == {"id": "a", "name": "A", "brand": "github"}


def test_a_template_has_all_its_claims_or_makes_nothing() -> None:
    claims = {"a": "x", "b": "{a}", "empty": ""}
    assert fill("{a}-{b}", claims) == "x-{a}"
    assert fill("{a}{missing}", claims) is None
    assert fill("{empty}", claims) is None
    assert fill("  ", claims) is None


@pytest.mark.parametrize(
    ("text", "localpart"),
    [
        ("Anna", "anna"),
        ("a.b_c-d/e+f0", "a.b_c-d/e+f0"),
        ("a b", "a=20b"),
        ("a=b", "a=3db"),
        ("a@b:c", "a=40b=3ac"),
        ("Ä", "=c3=a4"),
        ("a\0\n", "a=00=0a"),
    ],
)
def test_every_text_has_a_localpart(text: str, localpart: str) -> None:
    assert localpart_of(text) == localpart
    assert parse_localpart(localpart) == localpart


def test_claims_that_are_no_texts_are_left_out() -> None:
    assert text_claims({"a": "x", "b": 1, "c": None, "d": ["y"]}) == {"a": "x"}
