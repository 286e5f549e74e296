"""A mail server in a process of its own (aiosmtpd), and what a test holds of it.

Run as a program it takes its options as JSON in the first argument and says on standard output
which port it has, then a line of JSON for each mail. Recipients have their fate in their name:
`nobody@…` is refused for good, `busy@…` for now, `busy-once@…` for now the first time.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, NamedTuple

_ROOT = Path(__file__).parents[4]
_WAIT_S = 60


class Received(NamedTuple):
    """A mail that arrived: the envelope, and the message."""

    sender: str
    recipients: list[str]
    message: EmailMessage
    login: str | None

    def part(self, kind: str) -> str:
        """The text of a part, "plain" or "html"."""
        body = self.message.get_body((kind,))
        assert body is not None, "the mail has this part"
        return str(body.get_content())

    def link(self) -> str:
        """The address that the mail leads to."""
        lines = [line.strip() for line in self.part("plain").splitlines()]
        return next(line for line in lines if line.startswith(("http://", "https://")))


@dataclass
class MailServer:
    """The running process."""

    port: int
    process: asyncio.subprocess.Process
    early: list[Received] = field(default_factory=list)

    async def next(self) -> Received:
        """The next mail, in the order in which they came."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), _WAIT_S)
        found = json.loads(line)
        message = message_from_bytes(found["data"].encode("latin-1"), policy=policy.default)
        assert isinstance(message, EmailMessage)
        return Received(found["from"], found["to"], message, found["login"])


@asynccontextmanager
async def mail_server(**options: Any) -> AsyncIterator[MailServer]:
    """Runs one. Options: `tls` (starttls, tls, none), `cert`, `key`, `user`, `password`, `smtputf8`
    (default true)."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        json.dumps(options),
        stdout=asyncio.subprocess.PIPE,
        cwd=_ROOT,
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), _WAIT_S)
        yield MailServer(int(line), process)
    finally:
        process.kill()
        await process.wait()


class _Handler:
    """Takes mails, and says them on standard output."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    async def handle_RCPT(  # noqa: N802 - the library's name
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        """Answers RCPT TO."""
        name = address.partition("@")[0]
        if name == "nobody":
            return "550 no such mailbox"
        if name == "busy" or (name == "busy-once" and address not in self._seen):
            self._seen.add(address)
            return "451 try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, _server: Any, session: Any, envelope: Any
    ) -> str:
        """Takes the message."""
        login = session.auth_data
        told = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "data": envelope.content.decode("latin-1"),
            "login": login.login.decode() if login else None,
        }
        print(json.dumps(told), flush=True)  # noqa: T201 - its answer to the test
        return "250 OK"


async def _serve(options: Mapping[str, Any]) -> None:
    from aiosmtpd.smtp import SMTP, AuthResult

    def authenticate(_server: Any, _session: Any, _envelope: Any, _how: str, data: Any) -> Any:
        right = (options["user"].encode(), options["password"].encode())
        is_right = (data.login, data.password) == right
        return AuthResult(success=is_right, handled=False, auth_data=data)

    tls = options.get("tls", "none")
    context = None
    if tls != "none":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options["cert"], options["key"])
    more: dict[str, Any] = {"enable_SMTPUTF8": options.get("smtputf8", True)}
    if "user" in options:
        more |= {
            "authenticator": authenticate,
            "auth_required": True,
            "auth_require_tls": tls == "starttls",
        }
    if tls == "starttls":
        more |= {"tls_context": context, "require_starttls": True}
    handler = _Handler()
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(handler, hostname="mail.test", **more),
        "127.0.0.1",
        0,
        ssl=context if tls == "tls" else None,
    )
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.argv[1])))
