"""Third-party identifiers: their media, and the texts that name a proof of one.

Spec: appendices, "3PID Types"; identity service API, "General principles".
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from homeserver import limits
from homeserver.rules.identity.email_addresses import InvalidEmail, canonical_email

EMAIL = "email"
MSISDN = "msisdn"
_OPAQUE = re.compile(r"[0-9a-zA-Z.=_-]+")
_DIGITS = re.compile(r"[0-9]+")


def is_opaque(text: str) -> bool:
    """Returns whether a text can be a client's secret or the ID of a session."""
    return len(text) <= limits.VALIDATION_NAME_CHARACTERS and bool(_OPAQUE.fullmatch(text))


def canonical_address(medium: str, address: str) -> str | None:
    """Returns the form of an address that is stored and compared; None for one that isn't valid,
    or of another medium."""
    if medium == EMAIL:
        try:
            return canonical_email(address)
        except InvalidEmail:
            return None
    if medium == MSISDN and len(address) <= limits.MSISDN_DIGITS and _DIGITS.fullmatch(address):
        return address
    return None


def is_within(link: str, prefixes: tuple[str, ...]) -> bool:
    """Returns whether a link is below one of these: the same scheme, host and port, and a path
    that begins with the prefix's, part by part. Only http(s) links are."""
    try:
        target = urlsplit(link)
        port = target.port
    except ValueError:
        return False
    if target.scheme not in ("http", "https") or not link.isprintable() or "\\" in link:
        return False
    if " " in link or target.username is not None or not target.hostname:
        return False
    return any(
        _fits(prefix, target.scheme, target.hostname, port, target.path) for prefix in prefixes
    )


def _fits(prefix: str, scheme: str, host: str, port: int | None, path: str) -> bool:
    allowed = urlsplit(prefix)
    if (scheme, host, port) != (allowed.scheme, allowed.hostname, allowed.port):
        return False
    if "/.." in path or "%2e" in path.lower():
        return not allowed.path.strip("/")
    return f"{path.rstrip('/')}/".startswith(f"{allowed.path.rstrip('/')}/")
