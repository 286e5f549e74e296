"""Creates the clients of services that aren't homeservers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from federation.transport.requests.dialer import build_tls_context
from federation.transport.requests.resolve import SystemNames
from homeserver.app.context import ServerContext
from homeserver.app.pushers import PushTransport, make_push_transport
from homeserver.config import Config
from homeserver.outbound.mail.composer import MailComposer, parse_mailbox
from homeserver.outbound.mail.sender import MailSender, RunOnce, SmtpServer, SmtpTransport
from homeserver.outbound.web_client import WebClient
from homeserver.rules.identity.email_settings import EmailSettings
from homeserver.rules.media.web_addresses import WebPolicy, parse_networks

_ANY_NETWORK = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True, slots=True)
class OutsideClients:
    """The sender of e-mail, if there is one, the clients for web servers that users name and for
    those of the configuration, and the ways of notifications."""

    mail: MailSender | None
    named: WebClient
    trusted: WebClient
    gateways: PushTransport

    async def close(self) -> None:
        """Closes all connections."""
        await self.named.close()
        await self.trusted.close()
        await self.gateways.dialer.close()


def make_outside(config: Config, context: ServerContext, run_once: RunOnce) -> OutsideClients:
    """Creates the clients. Users may name servers at private addresses where other homeservers may
    be there. Raises as `make_mail`."""
    networks = _ANY_NETWORK if config.federation.allow_private_addresses else ()
    mail = make_mail(config, context, run_once)
    return OutsideClients(
        mail,
        _client(config, context, networks),
        _client(config, context, _ANY_NETWORK),
        make_push_transport(config, context.clock, mail),
    )


def _client(config: Config, context: ServerContext, networks: Sequence[str]) -> WebClient:
    return WebClient(
        SystemNames(context.clock).addresses,
        WebPolicy(allowed_networks=parse_networks(networks)),
        build_tls_context(config.federation.ca_paths, verify=True),
    )


def make_mail(config: Config, context: ServerContext, run_once: RunOnce) -> MailSender | None:
    """Creates the sender, None without a mail server. Raises OSError for a file that can't be
    read, ssl.SSLError for certificates."""
    if not config.email.host:
        return None
    return MailSender(
        MailComposer(
            parse_mailbox(config.email.sender),
            Path(config.email.templates_path) if config.email.templates_path else None,
            context.clock,
            context.random_bytes,
            server_name=context.name,
        ),
        SmtpTransport(_smtp_server(config.email)),
        context.clock,
        run_once,
        context.metrics,
    )


def _smtp_server(config: EmailSettings) -> SmtpServer:
    return SmtpServer(
        host=config.host,
        port=config.port,
        tls=config.tls,
        user=config.user,
        password=Path(config.password_path).read_text().strip()
        if config.password_path
        else config.password,
        ca_path=config.ca_path,
    )
