"""Receipts, typing and account data as events."""

import orjson

from federation.events.ids import EventId, RoomId, UserId
from homeserver.engine.entries import ReceiptEntry
from homeserver.services.sync.ephemeral import account_data_event, receipt_events, typing_event

ALICE, BOB = UserId("@alice:x"), UserId("@bob:x")


def receipt(user: UserId, *, kind: str = "m.read", thread: str = "", ts: int = 1) -> ReceiptEntry:
    return ReceiptEntry(RoomId("!r:x"), user, kind, thread, EventId("$e"), ts)


def test_receipts_are_grouped_by_event_and_kind() -> None:
    [event] = receipt_events([receipt(ALICE), receipt(BOB, ts=2, thread="$t")], ALICE)
    assert orjson.loads(event) == {
        "type": "m.receipt",
        "content": {
            "$e": {"m.read": {ALICE: {"ts": 1}, BOB: {"ts": 2, "thread_id": "$t"}}},
        },
    }


def test_a_private_receipt_is_for_its_user_alone() -> None:
    private = [receipt(BOB, kind="m.read.private")]
    assert receipt_events(private, ALICE) == []
    assert len(receipt_events(private, BOB)) == 1


def test_receipts_in_and_outside_of_a_thread_go_into_two_events() -> None:
    both = [receipt(BOB), receipt(BOB, thread="main")]
    assert len(receipt_events(both, ALICE)) == 2


def test_a_newer_receipt_takes_the_place_of_the_older() -> None:
    [event] = receipt_events([receipt(BOB, ts=1), receipt(BOB, ts=2)], ALICE)
    assert orjson.loads(event)["content"]["$e"]["m.read"][BOB] == {"ts": 2}


def test_typing_names_users_in_order() -> None:
    assert orjson.loads(typing_event([BOB, ALICE]))["content"] == {"user_ids": [ALICE, BOB]}


def test_account_data_is_spliced() -> None:
    event = orjson.loads(account_data_event('a"b', b'{"x":1}'))
    assert event == {"type": 'a"b', "content": {"x": 1}}
