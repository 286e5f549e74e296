"""E-mail addresses: which can be written to, and which two are one.

Rules:
1. An address is `local@domain`, with nothing that has a meaning in a header of a message or in a
   command of SMTP: no blanks, control characters, quotes, angle brackets, commas; nor has its
   domain's form in ASCII.
2. Two addresses are one if their case folding is the same. The folded form is stored, compared and
   written to: `straße.example` and `strasse.example` may be different people's, and a proof by a
   mail to the first one would otherwise open an account that the second one belongs to.

Spec: appendices, "3PID Types", "Email"; identity service API.
"""

from __future__ import annotations

import re

from homeserver import limits

_LOCAL = re.compile(r"[^\s()<>\[\]:;@\\,\"\x00-\x20\x7f-\xa0]+")
_ASCII_LABEL = re.compile(rf"(?!-)[0-9A-Za-z-]{{1,{limits.HOST_LABEL_CHARACTERS}}}(?<!-)")
_LABEL = re.compile(r"(?!-)[\w-]+(?<!-)")


class InvalidEmail(ValueError):
    """The text isn't an e-mail address that this server writes to."""


def parse_email(text: str) -> str:
    """Returns an address without the blanks around it. Raises InvalidEmail."""
    address = text.strip()
    local, _, domain = address.rpartition("@")
    if len(address) > limits.EMAIL_CHARACTERS or len(local) > limits.EMAIL_LOCAL_CHARACTERS:
        raise InvalidEmail("The e-mail address is too long")
    if not address.isprintable() or not _LOCAL.fullmatch(local):
        raise InvalidEmail("Not a valid e-mail address")
    if local.startswith((".", "-")) or local.endswith(".") or ".." in local:
        raise InvalidEmail("Not a valid e-mail address")
    labels = domain.split(".")
    if not all(_LABEL.fullmatch(label) and "_" not in label for label in labels):
        raise InvalidEmail("Not a valid e-mail address")
    ascii_domain(domain)
    return address


def ascii_domain(domain: str) -> str:
    """Returns the form of a domain in a mail. Raises InvalidEmail where that isn't a name: IDNA
    makes `a(1)` of one character, and a blank of another one."""
    try:
        form = domain if domain.isascii() else domain.encode("idna").decode()
    except UnicodeError as error:
        raise InvalidEmail("Not a valid e-mail address") from error
    if not all(map(_ASCII_LABEL.fullmatch, form.split("."))):
        raise InvalidEmail("Not a valid e-mail address")
    return form


def canonical_email(text: str) -> str:
    """Returns the form that is stored, compared and written to. Raises InvalidEmail."""
    return parse_email(parse_email(text).casefold())
