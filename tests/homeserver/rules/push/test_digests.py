"""What a mail about notifications says, and the pauses between mails."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver import limits
from homeserver.rules.push.digests import (
    DigestLine,
    line_of,
    one_line,
    pause_ms,
    room_link,
    room_name,
)
from homeserver.rules.push.gateway_messages import EventNames

BOB = EventNames("Bob", "Room", "#room:hs1")


def line(event_type: str = "m.room.message", *, encrypted: bool = False, **content: Any) -> str:
    event = {"type": event_type, "sender": "@bob:hs1", "content": content}
    found = line_of(event, BOB, is_encrypted=encrypted)
    assert found.sender == "Bob"
    return found.text


def test_a_message_is_quoted_in_one_line() -> None:
    assert line(body="hello\n\n <b>you</b>\r\nBcc: x") == "said: hello <b>you</b> Bcc: x"


@pytest.mark.parametrize("body", [None, 1, "", " \n", "\u202e"])
def test_what_has_no_text_is_something(body: object) -> None:
    assert line(body=body) == "sent something"
    assert line("m.sticker") == "sent something"


def test_nothing_of_an_encrypted_room_is_said() -> None:
    assert line(encrypted=True, body="secret") == "sent an encrypted message"
    assert line("m.room.encrypted", ciphertext="x") == "sent an encrypted message"


def test_an_invite_is_said() -> None:
    assert line("m.room.member", membership="invite") == "invites you"
    assert line("m.room.member", membership="join") == "sent something"


def test_names_and_texts_are_cut() -> None:
    most, name = limits.DIGEST_TEXT_CHARACTERS, limits.DIGEST_NAME_CHARACTERS
    assert line(body="x" * most) == "said: " + "x" * most
    assert line(body="x" * (most + 1)) == "said: " + "x" * (most - 1) + "…"
    assert room_name(EventNames("", "n" * name)) == "n" * name
    assert room_name(EventNames("", "n" * (name + 1))) == "n" * (name - 1) + "…"
    assert one_line("a\0b\u200bc", 9) == "a b c"


def test_names_that_are_not_there_are_replaced() -> None:
    event = {"type": "t", "sender": "@bob:hs1", "content": {}}
    unnamed = line_of(event, EventNames(), is_encrypted=False)
    assert unnamed == DigestLine("@bob:hs1", "sent something")
    assert room_name(EventNames("", "", "#a:hs1")) == "#a:hs1"
    assert room_name(EventNames()) == "a room without a name"


def test_a_link_has_nothing_but_the_id() -> None:
    assert room_link('!a/b"<>&:hs1') == "https://matrix.to/#/%21a%2Fb%22%3C%3E%26%3Ahs1"


def test_pauses_double_up_to_the_longest() -> None:
    first, doublings = limits.DIGEST_PAUSE_MS_MIN, limits.DIGEST_PAUSE_DOUBLINGS
    assert [pause_ms(n) for n in (1, 2, 3)] == [first, 2 * first, 4 * first]
    longest = first * 2**doublings
    assert pause_ms(doublings + 1) == pause_ms(doublings + 2) == pause_ms(10_000) == longest
    assert longest < 24 * 3_600_000
