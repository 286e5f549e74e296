"""Mails about unread notifications, from a real log to a real mail server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import time_ns
from typing import Any, cast

import pytest

from federation.events.ids import RoomId
from homeserver import limits
from homeserver.metrics import ServerMetrics
from homeserver.outbound.mail.composer import MailComposer, parse_mailbox
from homeserver.outbound.mail.sender import MailSender, SmtpServer, SmtpTransport
from homeserver.services.push.delivery.contents import PushContents
from homeserver.services.push.delivery.digests import PAGE, EmailDigests
from homeserver.storage.database import DatabaseUnavailable
from homeserver.storage.identity import third_party_ids
from homeserver.storage.identity.third_party_ids import ThirdPartyId
from homeserver.storage.push.digests import DigestTable
from tests.homeserver.outbound.mail.mail_server import MailServer, Received, mail_server
from tests.homeserver.room_world import ALICE, BOB, room_world
from tests.homeserver.services.push.delivery.test_queue import PUSHER, Pushing, pushing_in

ADDRESS = "bob@mail.example"
BASE = "https://hs1.example"
MINUTE = 60_000


class Later:
    """A clock that is ahead of the real one by as much as a test says."""

    def __init__(self) -> None:
        self.ahead_ms = 0
        self.slept: list[float] = []

    def now_ms(self) -> int:
        return time_ns() // 1_000_000 + self.ahead_ms

    def monotonic_s(self) -> float:
        return self.now_ms() / 1000

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


class Mailing:
    """Bob, who has a pusher that mails; Alice writes to him."""

    def __init__(self, pushing: Pushing, mails: MailServer) -> None:
        self.pushing, self.mails, self.clock = pushing, mails, Later()
        transport = SmtpTransport(SmtpServer("127.0.0.1", mails.port, tls="none"))
        composer = MailComposer(
            parse_mailbox("Freehold <noreply@hs1.example>"),
            None,
            self.clock,
            lambda count: b"\1" * count,
            server_name="hs1.example",
        )
        self.sender = MailSender(composer, transport, self.clock, cast(Any, None), ServerMetrics())
        engine = pushing.world.engine
        contents = PushContents(
            engine.rooms, engine.memberships, pushing.world.timeline.history.event
        )
        self.digests = EmailDigests(
            pushing.world.database,
            contents,
            self.clock,
            sender=self.sender,
            public_baseurl=BASE,
            stored=pushing.services.queue.stored,
        )
        pushing.services.pushers._has_address = self.digests.has_address

    async def begin(self, address: str = ADDRESS) -> RoomId:
        """Gives Bob an address and a pusher; a room with Alice."""
        async with self.pushing.world.database.transaction() as connection:
            new = ThirdPartyId("email", address, 1, 1)
            assert await third_party_ids.add(connection, BOB, new)
        await self.pushing.set(BOB, kind="email", app_id="m.email", pushkey=address, data={})
        return await self.pushing.room(BOB)

    async def after(self, minutes: float) -> None:
        """So much time passes; the mails that are due are sent."""
        self.clock.ahead_ms += int(minutes * MINUTE)
        await self.digests.work_once(self.sender)

    async def next(self) -> Received:
        """The next mail."""
        return await self.mails.next()

    async def row(self) -> dict[str, Any]:
        """The pusher as it is stored."""
        row = await self.pushing.world.database.fetchrow("SELECT * FROM pushers")
        assert row is not None, "there is one pusher"
        return dict(row)


@pytest.fixture
async def mailing(shared_database_url: str) -> AsyncIterator[Mailing]:
    async with (
        mail_server() as mails,
        room_world(shared_database_url) as world,
        pushing_in(world) as pushing,
    ):
        yield Mailing(pushing, mails)


def texts(mail: Received) -> tuple[str, str]:
    return mail.part("plain"), mail.part("html")


async def test_a_mail_comes_once_a_notification_was_unread_for_a_while(mailing: Mailing) -> None:
    room_id = await mailing.begin()
    await mailing.pushing.say(room_id, "hello <b>Bob</b>")
    delay = limits.DIGEST_DELAY_MS / MINUTE
    await mailing.after(delay - 1)
    assert (await mailing.row())["mails"] == 0
    await mailing.after(2)
    mail = await mailing.next()
    assert mail.recipients == [ADDRESS]
    assert mail.message["Subject"] == "Unread messages on hs1.example"
    plain, html = texts(mail)
    assert "Alice said: hello <b>Bob</b>" in plain
    assert "hello &lt;b&gt;Bob&lt;/b&gt;" in html
    assert "Wonderland" in plain
    assert "https://matrix.to/#/%21" in plain
    link = f"{BASE}{PAGE}?token="
    assert link in plain
    assert mail.message["List-Unsubscribe"].startswith(f"<{link}")
    assert mail.message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert mailing.pushing.gateways.sent == []


async def test_what_was_read_is_not_mailed(mailing: Mailing) -> None:
    room_id = await mailing.begin()
    event_id = await mailing.pushing.say(room_id, "hello")
    await mailing.pushing.read(BOB, room_id, event_id)
    await mailing.after(60)
    assert (await mailing.row())["mails"] == 0


async def test_a_locked_user_gets_no_mail_until_the_lock_ends(mailing: Mailing) -> None:
    database = mailing.pushing.world.database
    await database.execute(
        "INSERT INTO accounts (user_id, created_ms, is_locked) VALUES ($1, 0, true)"
        " ON CONFLICT (user_id) DO UPDATE SET is_locked = true",
        BOB,
    )
    room_id = await mailing.begin()
    await mailing.pushing.say(room_id, "hello")
    await mailing.after(60)
    assert (await mailing.row())["mails"] == 0
    await database.execute("UPDATE accounts SET is_locked = false WHERE user_id = $1", BOB)
    await mailing.after(60)
    assert "hello" in texts(await mailing.next())[0]


async def test_pauses_between_mails_grow_until_there_was_none_for_long(mailing: Mailing) -> None:
    room_id = await mailing.begin()
    pause = limits.DIGEST_PAUSE_MS_MIN / MINUTE
    for sent, factor in ((1, 1), (2, 2)):
        await mailing.pushing.say(room_id, f"number {sent - 1}")
        await mailing.after(limits.DIGEST_DELAY_MS / MINUTE + 1)
        plain = (await mailing.next()).part("plain")
        assert f"number {sent - 1}" in plain
        assert f"number {sent - 2}" not in plain
        row = await mailing.row()
        assert row["mails"] == sent
        waits = row["retry_at_ms"] - row["mailed_ms"]
        assert waits == factor * pause * MINUTE
        await mailing.pushing.say(room_id, f"soon after {sent}")
        before = row["mailed_ms"]
        await mailing.after(factor * pause - 2)
        assert (await mailing.row())["mailed_ms"] == before
        event_id = await mailing.pushing.say(room_id, f"read {sent}")
        await mailing.pushing.read(BOB, room_id, event_id)
        await mailing.after(3)
    await mailing.after(limits.DIGEST_RESET_MS / MINUTE)
    await mailing.pushing.say(room_id, "much later")
    row = await mailing.row()
    database = mailing.pushing.world.database
    await database.execute("UPDATE owed_pushes SET owed_ms = $1", row["retry_at_ms"])
    await mailing.after(1)
    await mailing.next()
    assert (await mailing.row())["mails"] == 1


async def test_nothing_of_an_encrypted_room_is_mailed(mailing: Mailing) -> None:
    room_id = await mailing.begin()
    await mailing.pushing.say(room_id, "clear before")
    encryption = {"algorithm": "m.megolm.v1.aes-sha2"}
    world = mailing.pushing.world
    await world.put_state(ALICE, room_id, "m.room.encryption", encryption)
    await mailing.pushing.say(room_id, "clear by mistake")
    await mailing.after(60)
    plain, html = texts(await mailing.next())
    assert "Alice sent an encrypted message" in plain
    assert "clear" not in plain + html


async def test_names_add_no_headers_and_no_markup(mailing: Mailing) -> None:
    room_id = await mailing.begin()
    world = mailing.pushing.world
    name = '<img src=x onerror="alert(1)">\r\nBcc: evil@mail.example'
    await world.put_state(ALICE, room_id, "m.room.name", {"name": name})
    await mailing.pushing.say(room_id, "\r\n.\r\nMAIL FROM:<evil@mail.example>")
    await mailing.after(60)
    mail = await mailing.next()
    plain, html = texts(mail)
    assert mail.recipients == [ADDRESS]
    assert mail.message["Bcc"] is None
    assert "<img" not in html
    assert "&lt;img src=x" in html
    assert "\nBcc:" not in plain


async def test_few_rooms_and_lines_are_in_a_mail(
    mailing: Mailing, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = [await mailing.begin(), *[await mailing.pushing.room(BOB) for _ in range(2)]]
    for name, limit in (("DIGEST_ROOMS", 2), ("DIGEST_LINES", 2), ("DIGEST_NOTIFICATIONS", 6)):
        monkeypatch.setattr(limits, name, limit)
    for number in range(4):
        await mailing.pushing.say(rooms[0], f"first {number}")
    await mailing.pushing.say(rooms[1], "second")
    await mailing.pushing.say(rooms[2], "third")
    await mailing.after(60)
    plain = (await mailing.next()).part("plain")
    for text, is_there in (
        ("first 1", False),
        ("first 2", True),
        ("first 3", True),
        ("(2 more)", True),
        ("second", True),
        ("third", False),
    ):
        assert (text in plain) is is_there, text
    assert plain.count("https://matrix.to/") == 2


async def test_an_address_that_the_account_has_lost_gets_nothing(mailing: Mailing) -> None:
    room_id = await mailing.begin()
    await mailing.pushing.say(room_id, "hello")
    database = mailing.pushing.world.database
    await database.execute("UPDATE third_party_ids SET user_id = $1", ALICE)
    await mailing.after(60)
    assert await database.fetchval("SELECT count(*) FROM pushers") == 0


async def test_what_the_mail_server_refuses_now_is_sent_later(mailing: Mailing) -> None:
    room_id = await mailing.begin("busy-once@mail.example")
    await mailing.pushing.say(room_id, "hello")
    await mailing.after(60)
    row = await mailing.row()
    assert (row["mails"], row["failures"]) == (0, 1)
    wait_ms = row["retry_at_ms"] - mailing.clock.now_ms()
    assert 0 < wait_ms <= limits.DIGEST_RETRY_S_MIN * 1000
    await mailing.after(limits.DIGEST_RETRY_S_MIN / 60 + 1)
    assert "hello" in (await mailing.next()).part("plain")
    assert (await mailing.row())["failures"] == 0


async def test_what_the_mail_server_refuses_for_good_is_passed_over(mailing: Mailing) -> None:
    room_id = await mailing.begin("nobody@mail.example")
    await mailing.pushing.say(room_id, "hello")
    await mailing.after(60)
    row = await mailing.row()
    assert (row["mails"], row["failures"]) == (0, 1)
    assert row["cursor"] >= mailing.pushing.world.committer.position
    await mailing.pushing.world.database.execute("UPDATE pushers SET failures = 1000")
    await mailing.pushing.say(room_id, "again")
    await mailing.after(60)
    wait_ms = (await mailing.row())["retry_at_ms"] - mailing.clock.now_ms()
    assert wait_ms <= limits.DIGEST_RETRY_S_MAX * 1000


async def test_the_link_of_a_mail_ends_them(mailing: Mailing) -> None:
    await mailing.begin()
    world, secret = mailing.pushing.world, str((await mailing.row())["secret"])
    services = mailing.digests
    assert await services.find_address(secret) == ADDRESS
    for wrong in ("", "x", "00000000-0000-0000-0000-000000000000", "\0"):
        assert await services.find_address(wrong) is None
        assert not await services.unsubscribe(wrong)
    assert await services.unsubscribe(secret)
    assert not await services.unsubscribe(secret)
    assert await world.database.fetchval("SELECT count(*) FROM pushers") == 0
    await mailing.pushing.set(BOB)
    of_a_gateway = str((await mailing.row())["secret"])
    assert await services.find_address(of_a_gateway) is None
    assert not await services.unsubscribe(of_a_gateway)


async def test_without_a_mail_server_nobody_has_an_address(mailing: Mailing) -> None:
    world = mailing.pushing.world
    nothing = EmailDigests(
        world.database,
        cast(Any, None),
        mailing.clock,
        sender=None,
        public_baseurl="",
        stored=mailing.pushing.services.queue.stored,
    )
    assert await nothing.has_address(BOB, ADDRESS) is None
    await nothing.run()
    body = {**PUSHER, "kind": "email", "app_id": "m.email", "pushkey": ADDRESS, "data": {}}
    reply = await world.call(BOB, "POST", "/pushers/set", body)
    assert reply.errcode == "M_THREEPID_NOT_FOUND"


async def test_mails_are_looked_for_now_and_then(
    mailing: Mailing, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []

    async def work_once(_self: EmailDigests, _sender: MailSender) -> None:
        rounds.append(1)
        if len(rounds) == 1:
            raise DatabaseUnavailable("away")
        if len(rounds) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(EmailDigests, "work_once", work_once)
    with pytest.raises(asyncio.CancelledError):
        await mailing.digests.run()
    assert mailing.clock.slept == [limits.DIGEST_CHECK_S] * 3


async def test_few_mails_are_sent_in_a_round(
    mailing: Mailing, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await mailing.begin()
    await mailing.pushing.say(room_id, "hello")
    await mailing.pushing.settled()
    table = DigestTable(mailing.pushing.world.database)
    assert len(await table.due(now_ms=2**62, owed_before_ms=2**62)) == 1
    assert await table.due(now_ms=2**62, owed_before_ms=0) == []
    monkeypatch.setattr(limits, "DIGESTS_AT_ONCE", 0)
    assert await table.due(now_ms=2**62, owed_before_ms=2**62) == []
