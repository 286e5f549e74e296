"""Providers of single sign-on, as the configuration has them, and the users that they name.

Rules:
1. A template names claims in braces: `{preferred_username}`. If one isn't there, there is no name.
2. A localpart is in lower case; what may not stand in one is written as `=` and two digits for each
   byte (spec: appendices, "Mapping from other character sets").

Spec: client-server API, "Client login via SSO".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from homeserver import limits

_ID = re.compile(r"[0-9a-zA-Z._~-]{1,255}")
_CLAIM = re.compile(r"\{(\w+)\}")
_PLAIN = re.compile(r"[a-z0-9._/+-]")


class SsoProvider(msgspec.Struct, frozen=True, kw_only=True):
    """`[[sso.providers]]`: `url` is the issuer (OpenID Connect) or the address of the CAS server.
    The templates make a new user's name of what the provider says."""

    id: str
    name: str
    kind: Literal["oidc", "cas"]
    url: str
    client_id: str = ""
    client_secret: str = ""
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    localpart: str = ""
    display_name: str = ""
    registers: bool = True
    icon: str = ""
    brand: str = ""

    def listed(self) -> dict[str, str]:
        """Returns the provider as clients are told of it."""
        told = {"id": self.id, "name": self.name, "icon": self.icon, "brand": self.brand}
        return {name: value for name, value in told.items() if value}


class Identified(msgspec.Struct, frozen=True):
    """Who a provider says that somebody is: its name of the user, and what else it says."""

    subject: str
    claims: Mapping[str, str]


def provider_problems(providers: Sequence[SsoProvider], public_baseurl: str) -> Iterator[str]:
    """Yields what is wrong with the providers of a configuration, in sentences."""
    if providers and not public_baseurl:
        yield "sso.providers: browsers come back to public_baseurl, which is missing"
    ids = {one.id for one in providers}
    if len(ids) < len(providers) or len(providers) > limits.SSO_PROVIDERS:
        yield f"sso.providers: each needs an id of its own, and {limits.SSO_PROVIDERS} are enough"
    for one in providers:
        if not _ID.fullmatch(one.id):
            yield f"sso.providers: {one.id!r} is not an id of 0-9, a-z, A-Z, . _ ~ -"
        if not one.url.startswith(("https://", "http://")):
            yield f"sso.providers: the url of {one.id!r} must begin with https:// or http://"
        if one.kind == "oidc" and not (one.client_id and one.client_secret):
            yield f"sso.providers: {one.id!r} needs client_id and client_secret"
        if one.kind == "oidc" and "openid" not in one.scopes:
            yield f"sso.providers: the scopes of {one.id!r} must have openid"
        if one.icon and not one.icon.startswith("mxc://"):
            yield f"sso.providers: the icon of {one.id!r} must begin with mxc://"


def fill(template: str, claims: Mapping[str, str]) -> str | None:
    """Returns a template with its claims; None if one isn't there."""
    names = _CLAIM.findall(template)
    if any(not claims.get(name) for name in names):
        return None
    return _CLAIM.sub(lambda found: claims[found[1]], template).strip() or None


def localpart_of(text: str) -> str:
    """Returns a text as the localpart of a user ID."""
    return "".join(
        one if _PLAIN.fullmatch(one) else "".join(f"={byte:02x}" for byte in one.encode())
        for one in text.lower()
    )


def text_claims(claims: Mapping[str, Any]) -> dict[str, str]:
    """Returns the claims that are texts."""
    return {name: value for name, value in claims.items() if isinstance(value, str)}
