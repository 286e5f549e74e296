"""What the configuration says of e-mail: its table `[email]`."""

from __future__ import annotations

from email.utils import parseaddr
from typing import Literal

import msgspec

from homeserver.rules.identity.email_addresses import InvalidEmail, parse_email


class EmailSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[email]`: the mail server, if `host` is given, and who the mails are from: `address` or
    `Name <address>`. `password_path` is a file with the password alone. Templates in the folder
    `templates_path` stand for those of the same name here; authorities in `ca_path` are trusted
    beside the system's. `next_links` are addresses below which a browser may go after a link in a
    mail; without any, it goes nowhere. `reveals_addresses`: answers say whether an address belongs
    to an account."""

    host: str = ""
    port: int = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: str = ""
    password_path: str = ""
    sender: str = ""
    templates_path: str = ""
    ca_path: str = ""
    next_links: tuple[str, ...] = ()
    reveals_addresses: bool = False


def email_problems(email: EmailSettings, public_baseurl: str, wanted: str) -> list[str]:
    """Returns the problems of the values; `wanted`: whether new users confirm an address
    (`[registration] email`)."""
    if not email.host:
        if wanted == "none":
            return []
        return ["registration.email needs a mail server: email.host"]
    problems = []
    if not public_baseurl:
        problems.append("email: links in mails need public_baseurl")
    if any(not link.startswith(("https://", "http://")) for link in email.next_links):
        problems.append("email.next_links must begin with https:// or http://")
    try:
        parse_email(parseaddr(email.sender)[1])
    except InvalidEmail:
        problems.append('email.sender must be an address, or "Name <address>"')
    if not 0 < email.port < 65536:
        problems.append("email.port must be between 1 and 65535")
    if email.password and email.password_path:
        problems.append("email: password and password_path exclude each other")
    if bool(email.user) != bool(email.password or email.password_path):
        problems.append("email: user and password (or password_path) belong together")
    return problems
