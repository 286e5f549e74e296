"""Mails about unread notifications, for pushers of the kind `email`.

Rules:
1. A mail goes to an address that its user has confirmed, and only as long as the account has it.
2. Pushers are looked through now and then; what a mail has, and when the next one may come, is
   stored after the mail server took it. A mail may be sent twice after a crash, and is never lost.
3. Each mail has a link, and the header of RFC 8058, that end its pusher.

Spec: client-server API, "Push Notifications", POST /pushers/set.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from federation.events import event_types
from federation.events.ids import RoomId, UserId
from federation.ports import Clock
from federation.retries import DoublingWaits
from homeserver import limits
from homeserver.outbound.mail.sender import MailFailed, MailSender
from homeserver.rules.identity.email_addresses import canonical_email
from homeserver.rules.identity.third_party_ids import EMAIL as MEDIUM
from homeserver.rules.push.digests import (
    DigestLine,
    DigestRoom,
    line_of,
    pause_ms,
    room_link,
    room_name,
)
from homeserver.services.push.delivery.contents import PushContents
from homeserver.storage.database import Database, DatabaseUnavailable
from homeserver.storage.identity.third_party_ids import ThirdPartyIdTable
from homeserver.storage.push.digests import DigestTable, DuePusher
from homeserver.storage.push.owed_pushes import OwedPush, OwedPushTable

log = logging.getLogger(__name__)

PAGE = "/_matrix/client/unstable/freehold/unsubscribe"
"""The page that ends a pusher."""

_WAITS = DoublingWaits(limits.DIGEST_RETRY_S_MIN, limits.DIGEST_RETRY_S_MAX)


class EmailDigests:
    """Sends mails that are due. `sender` None: there is no mail server, and no mail is sent."""

    def __init__(
        self,
        database: Database,
        contents: PushContents,
        clock: Clock,
        *,
        sender: MailSender | None,
        public_baseurl: str,
        stored: Callable[[], Awaitable[None]],
    ) -> None:
        """`stored` returns once the tables have what was read until now."""
        self._stored = stored
        self._table, self._owed = DigestTable(database), OwedPushTable(database)
        self._addresses = ThirdPartyIdTable(database)
        self._contents, self._clock = contents, clock
        self._sender, self._page = sender, public_baseurl + PAGE

    async def has_address(self, user_id: UserId, address: str) -> bool | None:
        """Returns whether an account has an address; None: no mails are sent."""
        if self._sender is None:
            return None
        return await self._addresses.find_owner(MEDIUM, canonical_email(address)) == user_id

    async def find_address(self, secret: str) -> str | None:
        """Returns the address that a link in a mail ends the mails to."""
        parsed = _parse_secret(secret)
        return None if parsed is None else await self._table.find_address(parsed)

    async def unsubscribe(self, secret: str) -> bool:
        """Ends the pusher of a link; False if the link has none (any more)."""
        parsed = _parse_secret(secret)
        return parsed is not None and await self._table.unsubscribe(parsed)

    async def run(self) -> None:
        """Sends mails as they become due; runs under the supervisor."""
        while self._sender is not None:
            await self._clock.sleep(limits.DIGEST_CHECK_S)
            try:
                await self.work_once(self._sender)
            except DatabaseUnavailable as error:
                log.warning("mails about notifications wait for the database: %s", error)

    async def work_once(self, sender: MailSender) -> None:
        """Sends the mails that are due now."""
        now_ms = self._clock.now_ms()
        before_ms = now_ms - limits.DIGEST_DELAY_MS
        await self._stored()
        for due in await self._table.due(now_ms=now_ms, owed_before_ms=before_ms):
            if await self.has_address(due.user_id, due.address):
                await self._mail(sender, due)
            else:
                await self._table.delete(due.pusher_id)

    async def _mail(self, sender: MailSender, due: DuePusher) -> None:
        pushes = await self._owed.unread(
            due.user_id, after=due.cursor, since_ms=0, limit=limits.DIGEST_NOTIFICATIONS
        )
        cursor = pushes[-1].position if pushes else due.cursor
        rooms = await self._rooms(due.user_id, pushes)
        now_ms = self._clock.now_ms()
        mails = 1 if now_ms - due.mailed_ms > limits.DIGEST_RESET_MS else due.mails + 1
        if rooms:
            link = f"{self._page}?token={due.secret}"
            try:
                await sender.deliver(
                    due.address,
                    "notifications",
                    {"rooms": rooms, "user_id": due.user_id, "unsubscribe": link},
                    headers={
                        "List-Unsubscribe": f"<{link}>",
                        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
                    },
                )
            except MailFailed as error:
                log.info("a mail about notifications wasn't taken: %s", error)
                await self._note_failed(due, error, cursor)
                return
        retry_at_ms = now_ms + (pause_ms(mails) if rooms else 0)
        await self._table.note_mailed(
            due.pusher_id, cursor=cursor, mails=mails, now_ms=now_ms, retry_at_ms=retry_at_ms
        )

    async def _note_failed(self, due: DuePusher, error: MailFailed, cursor: int) -> None:
        """What the mail server refuses for good is passed over; the rest is tried again."""
        wait_s = _WAITS.after(due.failures + 1)
        await self._table.note_failed(
            due.pusher_id,
            cursor=cursor if error.is_final else due.cursor,
            retry_at_ms=self._clock.now_ms() + int(wait_s * 1000),
        )

    async def _rooms(self, user_id: UserId, pushes: Sequence[OwedPush]) -> list[DigestRoom]:
        """Returns the rooms of a mail, in the order of their first notification."""
        by_room: dict[RoomId, list[OwedPush]] = {}
        for one in pushes:
            by_room.setdefault(one.room_id, []).append(one)
        found = []
        for room_id in list(by_room)[: limits.DIGEST_ROOMS]:
            room = await self._room(user_id, room_id, by_room[room_id])
            if room is not None:
                found.append(room)
        return found

    async def _room(
        self, user_id: UserId, room_id: RoomId, pushes: Sequence[OwedPush]
    ) -> DigestRoom | None:
        is_encrypted = await self._contents.has_state(room_id, event_types.ENCRYPTION_KEY)
        lines: list[DigestLine] = []
        name = ""
        newest = pushes[-limits.DIGEST_LINES :]
        for push in newest:
            event = await self._contents.event(user_id, room_id, push.event_id)
            if event is not None:
                names = await self._contents.names(user_id, event)
                name = room_name(names)
                lines.append(line_of(event, names, is_encrypted=is_encrypted))
        if not lines:
            return None
        return DigestRoom(name, room_link(room_id), lines, len(pushes) - len(newest))


def _parse_secret(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
