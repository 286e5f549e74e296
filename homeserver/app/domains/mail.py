"""Creates the sender of e-mail."""

from __future__ import annotations

from pathlib import Path

from homeserver.app.context import ServerContext
from homeserver.config import Config
from homeserver.outbound.mail.composer import MailComposer, parse_mailbox
from homeserver.outbound.mail.sender import MailSender, RunOnce, SmtpServer, SmtpTransport
from homeserver.rules.identity.email_settings import EmailSettings


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
