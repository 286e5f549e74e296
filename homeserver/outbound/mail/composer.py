"""Writes mails from templates: `<name>.subject.txt`, `<name>.txt` and `<name>.html`.

Rules:
1. A template of the operator's folder stands for ours with the same name.
2. HTML is escaped; a value that a template names and isn't there is an error, not an empty text.
3. A header has printable characters only: what a user chose (a name, a room's topic) can't add
   headers, recipients or a body.
4. Each mail says that a program sent it, so that no other program answers (RFC 3834).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTPUTF8
from email.utils import format_datetime, getaddresses
from pathlib import Path

from jinja2 import BaseLoader, ChoiceLoader, Environment, FileSystemLoader, PackageLoader
from jinja2 import StrictUndefined as Strict

from federation.ports import Clock
from homeserver import limits
from homeserver.rules.identity.email_addresses import InvalidEmail, ascii_domain, parse_email


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail that can be sent, and the name of its template, for the log and the metrics."""

    recipient: str
    template: str
    message: EmailMessage


@dataclass(frozen=True, slots=True)
class Mailbox:
    """Who sends: a name to show, and an address."""

    name: str
    address: str


def parse_mailbox(text: str) -> Mailbox:
    """Returns the mailbox of `Name <address>` or `address`. Raises InvalidEmail."""
    found = getaddresses([text])
    if len(found) != 1:
        raise InvalidEmail("Not one address")
    name, address = found[0]
    return Mailbox(one_line(name), parse_email(address))


def one_line(text: str) -> str:
    """Returns a text for a header: blanks for line breaks and other control characters."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


class MailComposer:
    """Writes mails from one sender. `folder` has the operator's templates, if any; `server_name` is
    among the values of each template."""

    def __init__(
        self,
        sender: Mailbox,
        folder: Path | None,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        *,
        server_name: str,
    ) -> None:
        self._sender, self._clock, self._random_bytes = sender, clock, random_bytes
        self._server_name = server_name
        ours = PackageLoader("homeserver.outbound.mail", "templates")
        loaders: list[BaseLoader] = [FileSystemLoader(folder)] if folder else []
        self._templates = Environment(
            loader=ChoiceLoader([*loaders, ours]),
            autoescape=lambda name: name is not None and name.endswith(".html"),
            undefined=Strict,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def compose(
        self,
        to: str,
        template: str,
        values: Mapping[str, object],
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Mail:
        """Returns the mail. Raises InvalidEmail for the address, and jinja2.TemplateError for a
        template of the operator's that can't be used."""
        recipient = parse_email(to)
        subject = one_line(self._render(f"{template}.subject.txt", values))
        message = EmailMessage(policy=SMTPUTF8)
        message["From"] = _header(self._sender.name, self._sender.address)
        message["To"] = _header("", recipient)
        message["Subject"] = subject[: limits.MAIL_SUBJECT_CHARACTERS]
        now = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)
        message["Date"] = format_datetime(now)
        domain = ascii_domain(self._sender.address.rpartition("@")[2])
        message["Message-ID"] = f"<{self._random_bytes(16).hex()}@{domain}>"
        message["Auto-Submitted"] = "auto-generated"
        for name, value in (headers or {}).items():
            message[name] = one_line(value)
        message.set_content(self._render(f"{template}.txt", values))
        message.add_alternative(self._render(f"{template}.html", values), subtype="html")
        return Mail(_envelope(recipient), template, message)

    def _render(self, name: str, values: Mapping[str, object]) -> str:
        return self._templates.get_template(name).render(server_name=self._server_name, **values)


def _header(name: str, address: str) -> Address:
    local, _, domain = address.rpartition("@")
    return Address(name, local, ascii_domain(domain))


def _envelope(address: str) -> str:
    local, _, domain = address.rpartition("@")
    return f"{local}@{ascii_domain(domain)}"
