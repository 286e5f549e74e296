"""The sender of e-mail, made from the configuration."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import trustme

from federation.events.ids import ServerName
from federation.events.signing import SigningKey
from homeserver.app.context import ServerContext
from homeserver.app.domains.outside import make_mail
from homeserver.clock import SystemClock
from homeserver.config import Config
from homeserver.metrics import ServerMetrics
from tests.homeserver.outbound.mail.mail_server import mail_server


def run_no_task(_name: str, task: Coroutine[Any, Any, None]) -> None:
    """Stands for the supervisor."""
    task.close()


def context() -> ServerContext:
    key = SigningKey.generate(os.urandom(32), "1")
    return ServerContext(ServerName("hs1"), key, SystemClock(), ServerMetrics(), os.urandom)


async def test_a_mail_is_sent_as_the_configuration_says(tmp_path: Path) -> None:
    authority = trustme.CA()
    made = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    made.private_key_pem.write_to_path(tmp_path / "key.pem")
    made.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    (tmp_path / "password").write_text("right\n")
    (tmp_path / "confirm_address.subject.txt").write_text("Mine")
    files = {"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    async with mail_server(tls="starttls", user="u", password="right", **files) as server:
        table = {
            "server_name": "hs1",
            "email": {
                "host": "localhost",
                "port": server.port,
                "user": "u",
                "password_path": str(tmp_path / "password"),
                "sender": "Freehold <noreply@hs1>",
                "templates_path": str(tmp_path),
                "ca_path": str(tmp_path / "ca.pem"),
            },
        }
        sender = make_mail(msgspec.convert(table, Config), context(), run_no_task)
        assert sender is not None
        await sender.deliver("anna@example.org", "confirm_address", {"link": "x", "hours": 1})
        mail = await server.next()
    assert (mail.message["Subject"], mail.login) == ("Mine", "u")


def test_without_a_mail_server_there_is_no_sender() -> None:
    config = msgspec.convert({"server_name": "hs1"}, Config)
    assert make_mail(config, context(), run_no_task) is None
