"""Mails through a mail server of another's making, and the queue before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import trustme

from homeserver import limits
from homeserver.metrics import ServerMetrics
from homeserver.outbound.mail.composer import Mail, MailComposer, parse_mailbox
from homeserver.outbound.mail.sender import (
    MailFailed,
    MailQueueFull,
    MailSender,
    SmtpServer,
    SmtpTransport,
)
from homeserver.rules.identity.email_addresses import InvalidEmail
from tests.homeserver.counted import counted
from tests.homeserver.outbound.mail.mail_server import MailServer, mail_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

VALUES = {"link": "https://hs1/x?token=a&sid=b", "hours": 24}
LOGIN = {"user": "hs1", "password": "right"}


class StillClock:
    """Time stands, and notes how long somebody wanted to wait."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def now_ms(self) -> int:
        return 1_790_000_000_000

    def monotonic_s(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


class ScriptedTransport:
    """Fails as a test says, then takes the mails."""

    def __init__(self, *failures: MailFailed) -> None:
        self.failures = list(failures)
        self.taken: list[Mail] = []
        self.at_once = self.at_once_most = 0
        self.open: asyncio.Event | None = None

    async def deliver(self, mail: Mail) -> None:
        self.at_once += 1
        self.at_once_most = max(self.at_once, self.at_once_most)
        try:
            if self.open is not None:
                await self.open.wait()
            if self.failures:
                raise self.failures.pop(0)
            self.taken.append(mail)
        finally:
            self.at_once -= 1


class World:
    """A sender whose tasks a test runs."""

    def __init__(self, transport: ScriptedTransport | SmtpTransport) -> None:
        self.clock, self.metrics = StillClock(), ServerMetrics()
        self.tasks: list[Coroutine[Any, Any, None]] = []
        composer = MailComposer(
            parse_mailbox("Freehold <noreply@hs1>"), None, self.clock, bytes, server_name="hs1"
        )
        self.sender = MailSender(
            composer, transport, self.clock, lambda _name, task: self.tasks.append(task),
            self.metrics,
        )  # fmt: skip

    def queue(self, to: str = "anna@example.org") -> None:
        self.sender.queue(to, "confirm_address", VALUES)

    async def deliver(self, to: str = "anna@example.org") -> None:
        await self.sender.deliver(to, "confirm_address", VALUES)

    async def run(self) -> None:
        tasks, self.tasks = self.tasks, []
        await asyncio.gather(*tasks)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    made = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    made.private_key_pem.write_to_path(folder / "key.pem")
    made.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return folder


def of(folder: Path) -> dict[str, str]:
    return {"cert": str(folder / "cert.pem"), "key": str(folder / "key.pem")}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain() -> AsyncIterator[MailServer]:
    async with mail_server() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def starttls(certificates: Path) -> AsyncIterator[MailServer]:
    async with mail_server(tls="starttls", **LOGIN, **of(certificates)) as running:
        yield running


def through(server: MailServer, *, host: str = "localhost", **more: Any) -> World:
    more.setdefault("tls", "none")
    return World(SmtpTransport(SmtpServer(host, server.port, **more)))


async def test_a_mail_arrives_with_both_texts(plain: MailServer) -> None:
    await through(plain).deliver("Änna.Ö@example.org")
    mail = await plain.next()
    assert (mail.sender, mail.recipients) == ("noreply@hs1", ["Änna.Ö@example.org"])
    assert mail.message["Subject"] == "Confirm your e-mail address for hs1"
    assert mail.message["Auto-Submitted"] == "auto-generated"
    assert mail.link() == VALUES["link"]
    assert "https://hs1/x?token=a&amp;sid=b" in mail.part("html")


async def test_starttls_with_a_log_in(starttls: MailServer, certificates: Path) -> None:
    world = through(starttls, tls="starttls", ca_path=str(certificates / "ca.pem"), **LOGIN)
    await world.deliver()
    assert (await starttls.next()).login == "hs1"
    assert counted(world.metrics, "mails", result="sent") == 1


async def test_a_wrong_password_is_no_final_refusal(
    starttls: MailServer, certificates: Path
) -> None:
    ca_path = str(certificates / "ca.pem")
    world = through(starttls, tls="starttls", ca_path=ca_path, user="hs1", password="wrong")
    with pytest.raises(MailFailed) as caught:
        await world.deliver()
    assert not caught.value.is_final
    assert "wrong" not in str(caught.value)


async def test_tls_from_the_first_byte(certificates: Path) -> None:
    async with mail_server(tls="tls", **LOGIN, **of(certificates)) as server:
        world = through(server, tls="tls", ca_path=str(certificates / "ca.pem"), **LOGIN)
        await world.deliver()
        assert (await server.next()).login == "hs1"


async def test_a_server_without_a_trusted_certificate_gets_nothing(starttls: MailServer) -> None:
    with pytest.raises(MailFailed) as caught:
        await through(starttls, tls="starttls", **LOGIN).deliver()
    assert not caught.value.is_final


async def test_a_server_whose_certificate_has_another_name_gets_nothing(
    starttls: MailServer, certificates: Path
) -> None:
    world = through(
        starttls, host="127.0.0.1", tls="starttls", ca_path=str(certificates / "ca.pem"), **LOGIN
    )
    with pytest.raises(MailFailed):
        await world.deliver()


async def test_a_server_that_hides_tls_gets_neither_password_nor_mail(plain: MailServer) -> None:
    with pytest.raises(MailFailed):
        await through(plain, tls="starttls", **LOGIN).deliver()
    await through(plain).deliver("next@example.org")
    assert (await plain.next()).recipients == ["next@example.org"]


@pytest.mark.parametrize(("name", "is_final"), [("nobody", True), ("busy", False)])
async def test_a_refused_recipient(plain: MailServer, name: str, is_final: bool) -> None:
    world = through(plain)
    with pytest.raises(MailFailed) as caught:
        await world.deliver(f"{name}@example.org")
    assert caught.value.is_final is is_final
    assert f"{name}@" not in str(caught.value)


async def test_a_grey_listed_mail_arrives_at_the_second_try(plain: MailServer) -> None:
    world = through(plain)
    world.queue("busy-once@example.org")
    await world.run()
    assert (await plain.next()).recipients == ["busy-once@example.org"]
    assert world.clock.waits == [limits.MAIL_WAIT_S_LEAST]


async def test_a_server_that_is_away_is_tried_again_with_doubling_waits() -> None:
    world = World(SmtpTransport(SmtpServer("127.0.0.1", 1, "none")))
    world.queue()
    await world.run()
    assert len(world.clock.waits) == limits.MAIL_TRIES - 1
    assert world.clock.waits[:2] == [limits.MAIL_WAIT_S_LEAST, 2 * limits.MAIL_WAIT_S_LEAST]
    assert max(world.clock.waits) <= limits.MAIL_WAIT_S_MOST
    assert counted(world.metrics, "mails", result="failed") == limits.MAIL_TRIES


async def test_a_final_refusal_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    world = World(ScriptedTransport(MailFailed("550", is_final=True)))
    world.queue("secret@example.org")
    await world.run()
    assert world.clock.waits == []
    assert counted(world.metrics, "mails", result="refused") == 1
    assert "given up: 550" in caplog.text
    assert "secret" not in caplog.text


async def test_the_queue_is_bounded_and_takes_more_when_it_has_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAILS_QUEUED", 5)
    transport = ScriptedTransport()
    world = World(transport)
    for _ in range(limits.MAILS_QUEUED):
        world.queue()
    with pytest.raises(MailQueueFull):
        world.queue()
    await world.run()
    assert len(transport.taken) == limits.MAILS_QUEUED
    world.queue()
    await world.run()


async def test_few_mails_are_at_the_server_at_once() -> None:
    transport = ScriptedTransport()
    transport.open = asyncio.Event()
    world = World(transport)
    for _ in range(3 * limits.MAILS_AT_ONCE):
        world.queue()
    run = asyncio.ensure_future(world.run())
    for _ in range(3):
        await asyncio.sleep(0)
    transport.open.set()
    await run
    assert transport.at_once_most == limits.MAILS_AT_ONCE


async def test_a_server_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAIL_EXCHANGE_S", 0.2)
    left = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        left.set()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        with pytest.raises(MailFailed) as caught:
            await World(SmtpTransport(SmtpServer("127.0.0.1", port, "none"))).deliver()
        await left.wait()
    assert not caught.value.is_final


async def test_an_address_that_is_none_is_refused_before_the_queue() -> None:
    world = World(ScriptedTransport())
    with pytest.raises(InvalidEmail):
        world.queue("anna@example.org\r\nBcc: all@example.org")
    assert world.tasks == []
