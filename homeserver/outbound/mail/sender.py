"""Sends mails through one mail server.

Rules:
1. `queue` returns at once. A mail that the server can't take now is tried again, with waits that
   double, `MAIL_TRIES` times; one that it refuses for good (5xx) is dropped. Both are logged by
   template and code, without the address, and counted.
2. At most `MAILS_QUEUED` mails wait or are under way, `MAILS_AT_ONCE` of them at the server.
3. With `starttls` and `tls`, nothing is said to a server without a certificate for its name: a
   server that doesn't offer TLS gets neither password nor mail.
4. The queue ends with the process: whoever asked for a mail asks again. A caller with a record of
   its own uses `deliver`, which tries once and says how it went.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import aiosmtplib

from federation.ports import Clock
from federation.retries import DoublingWaits
from homeserver import limits
from homeserver.metrics import ServerMetrics
from homeserver.outbound.mail.composer import Mail, MailComposer

_log = logging.getLogger(__name__)
RunOnce: TypeAlias = Callable[[str, Coroutine[Any, Any, None]], None]


class MailFailed(Exception):
    """The mail server didn't take a mail. `is_final`: it won't take it later either."""

    def __init__(self, reason: str, *, is_final: bool) -> None:
        super().__init__(reason)
        self.is_final = is_final


class MailQueueFull(Exception):
    """Too many mails wait for the mail server."""


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """The mail server. `starttls` begins in clear and insists on TLS; `tls` begins with it.
    Authorities at `ca_path` (PEM) are trusted beside the system's."""

    host: str
    port: int
    tls: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: str = field(default="", repr=False)
    ca_path: str = ""


class MailTransport(Protocol):
    """Takes a mail to its server: `SmtpTransport`, and what tests have in its place."""

    async def deliver(self, mail: Mail) -> None:
        """Raises MailFailed."""


class SmtpTransport:
    """Hands each mail over on a connection of its own."""

    def __init__(self, server: SmtpServer) -> None:
        self._server = server
        self._tls = ssl.create_default_context()
        if server.ca_path:
            self._tls.load_verify_locations(cafile=server.ca_path)

    async def deliver(self, mail: Mail) -> None:
        """Sends a mail. Raises MailFailed."""
        server = self._server
        client = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user or None,
            password=server.password or None,
            use_tls=server.tls == "tls",
            start_tls=server.tls == "starttls",
            tls_context=None if server.tls == "none" else self._tls,
            timeout=limits.MAIL_EXCHANGE_S,
        )
        try:
            async with client:
                await client.send_message(mail.message, recipients=[mail.recipient])
        except aiosmtplib.SMTPRecipientsRefused as error:
            codes = [one.code for one in error.recipients]
            raise _failed(f"recipient refused, {codes}", max(codes, default=0)) from None
        except aiosmtplib.SMTPResponseException as error:
            raise _failed(f"{type(error).__name__}, {error.code}", error.code) from None
        except aiosmtplib.SMTPNotSupported as error:
            raise MailFailed(str(error), is_final=True) from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            # ValueError: an answer that isn't SMTP's
            raise MailFailed(type(error).__name__, is_final=False) from None


def _failed(reason: str, code: int) -> MailFailed:
    """Returns the failure for an answer: 5xx is final, but for a refused log-in, which the
    operator may put right."""
    refused = (aiosmtplib.SMTPStatus.access_denied, aiosmtplib.SMTPStatus.auth_failed)
    return MailFailed(reason, is_final=code // 100 == 5 and code not in refused)


class MailSender:
    """The queue of mails. `run_once` starts a task that isn't restarted."""

    def __init__(
        self,
        composer: MailComposer,
        transport: MailTransport,
        clock: Clock,
        run_once: RunOnce,
        metrics: ServerMetrics,
    ) -> None:
        self._composer, self._transport, self._clock = composer, transport, clock
        self._run_once, self._metrics = run_once, metrics
        self._places = asyncio.Semaphore(limits.MAILS_AT_ONCE)
        self._waits = DoublingWaits(limits.MAIL_WAIT_S_LEAST, limits.MAIL_WAIT_S_MOST)
        self._queued = 0

    def queue(self, to: str, template: str, values: Mapping[str, object]) -> None:
        """Writes a mail and sends it in the background. Raises MailQueueFull, InvalidEmail."""
        if self._queued >= limits.MAILS_QUEUED:
            raise MailQueueFull
        mail = self._composer.compose(to, template, values)
        self._queued += 1
        self._run_once("mail", self._keep_trying(mail))

    async def deliver(
        self,
        to: str,
        template: str,
        values: Mapping[str, object],
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Writes a mail and tries once to send it. Raises MailFailed, InvalidEmail."""
        await self._try(self._composer.compose(to, template, values, headers=headers))

    async def _try(self, mail: Mail) -> None:
        async with self._places:
            try:
                await self._transport.deliver(mail)
            except MailFailed as error:
                self._metrics.mails.inc("refused" if error.is_final else "failed")
                raise
        self._metrics.mails.inc("sent")

    async def _keep_trying(self, mail: Mail) -> None:
        try:
            for tried in range(1, limits.MAIL_TRIES + 1):
                try:
                    return await self._try(mail)
                except MailFailed as error:
                    is_last = error.is_final or tried == limits.MAIL_TRIES
                    end = "given up" if is_last else "to be tried again"
                    _log.warning("mail %s, try %d, %s: %s", mail.template, tried, end, error)
                    if is_last:
                        return None
                await self._clock.sleep(self._waits.after(tried))
        finally:
            self._queued -= 1
