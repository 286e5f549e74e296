"""Transactions: PDUs and EDUs cut out, each within its bounds."""

from __future__ import annotations

import pytest

from federation.errors import MatrixError
from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.event import parse_pdu
from federation.limits import (
    DEEP_TEXT_BYTES_MAX,
    DOCUMENT_CONTAINERS_MAX,
    EDUS_PER_TRANSACTION_MAX,
    EVENT_CONTAINERS_MAX,
    NESTING_MAX,
    PARSED_AT_ONCE_BYTES_MAX,
    PDU_TEXT_BYTES_MAX,
    PDUS_PER_TRANSACTION_MAX,
)
from federation.transport.inbound.transactions import (
    ReceivedPdu,
    TransactionReader,
    parse_transaction,
)
from tests.federation.graph.room_builder import ALICE, Room
from tests.federation.transport.deep_json import deep, nested


def body(pdus: list[bytes], edus: list[bytes], more: bytes = b"") -> bytes:
    return b'{"edus":[' + b",".join(edus) + b'],"pdus":[' + b",".join(pdus) + b"]" + more + b"}"


def test_a_transaction_is_cut_into_its_parts() -> None:
    found = parse_transaction(body([b'{"a":1}', b"2"], [b'{"b":[]}'], b',"origin":"a","x":{}'))
    assert [one.value for one in found.pdus] == [{"a": 1}, 2]
    assert found.edus == [{"b": []}]


@pytest.mark.parametrize("empty", [b"", b"{}", b'{"pdus":[]}', b'{"edus":[]}', b' {"x":1} '])
def test_both_lists_may_be_missing(empty: bytes) -> None:
    found = parse_transaction(empty)
    assert (found.pdus, found.edus) == ([], [])


@pytest.mark.parametrize(
    ("text", "errcode"),
    [
        (b"{", "M_NOT_JSON"),
        (b"[]", "M_BAD_JSON"),
        (b"3", "M_NOT_JSON"),
        (b'{"pdus":7}', "M_BAD_JSON"),
        (b'{"pdus":{}}', "M_BAD_JSON"),
        (b'{"pdus":null}', "M_BAD_JSON"),
        (b'{"pdus":[],"pdus":[]}', "M_BAD_JSON"),
        (b'{"pdus":[{"a":}]}', "M_NOT_JSON"),
        (b'{"edus":[nul]}', "M_NOT_JSON"),
        (b'{"x":nul}', "M_NOT_JSON"),
        (b'{"x":' + nested(NESTING_MAX + 1) + b"}", "M_BAD_JSON"),
        (body([b"1"] * (PDUS_PER_TRANSACTION_MAX + 1), []), "M_BAD_JSON"),
        (body([], [b"1"] * (EDUS_PER_TRANSACTION_MAX + 1)), "M_BAD_JSON"),
    ],
)
def test_what_is_not_a_transaction_is_refused(text: bytes, errcode: str) -> None:
    with pytest.raises(MatrixError) as refused:
        parse_transaction(text)
    assert (refused.value.status, refused.value.errcode) == (400, errcode)


def test_as_much_as_is_allowed_is_taken() -> None:
    found = parse_transaction(
        body([b"1"] * PDUS_PER_TRANSACTION_MAX, [b"2"] * EDUS_PER_TRANSACTION_MAX)
    )
    assert (len(found.pdus), len(found.edus)) == (50, 100)


def test_what_can_not_be_a_pdu_for_its_size_is_left_out() -> None:
    def is_kept(pdu: bytes) -> bool:
        first, second = parse_transaction(body([pdu, b"{}"], [])).pdus
        assert second == ReceivedPdu({})
        return first.value is not None

    assert is_kept(b'{"a":"' + b"x" * (PDU_TEXT_BYTES_MAX - 8) + b'"}')
    assert not is_kept(b'{"a":"' + b"x" * (PDU_TEXT_BYTES_MAX - 7) + b'"}')
    assert is_kept(deep(DEEP_TEXT_BYTES_MAX))
    assert not is_kept(deep(DEEP_TEXT_BYTES_MAX + 1))
    assert is_kept(nested(EVENT_CONTAINERS_MAX))
    assert not is_kept(nested(EVENT_CONTAINERS_MAX + 1))
    assert is_kept(b"[" + b",".join([b"[]"] * (EVENT_CONTAINERS_MAX - 1)) + b"]")
    assert not is_kept(b"[" + b",".join([b"[]"] * EVENT_CONTAINERS_MAX) + b"]")


def test_an_edu_is_as_bounded_as_any_document() -> None:
    def is_kept(edu: bytes) -> bool:
        first, second = parse_transaction(body([], [edu, b"{}"])).edus
        assert second == {}
        return first is not None

    assert is_kept(nested(NESTING_MAX))
    assert not is_kept(nested(NESTING_MAX + 1))
    assert is_kept(b"[" + b",".join([b"[]"] * (DOCUMENT_CONTAINERS_MAX - 1)) + b"]")
    assert not is_kept(b"[" + b",".join([b"[]"] * DOCUMENT_CONTAINERS_MAX) + b"]")
    assert is_kept(b'["' + b"[" * 50_000 + b'"]')


@pytest.mark.parametrize("space", [0, PARSED_AT_ONCE_BYTES_MAX])
async def test_a_deep_pdu_becomes_the_same_event_as_any(space: int) -> None:
    room = Room()
    value: object = 1
    for _ in range(9_000):
        value = [value]
    event = room.send("m.room.message", ALICE, {"body": "x", "y": value})
    pdu: JsonObject = canonical_json.decode(event.raw)
    text = body([event.raw], []) + b" " * space
    (received,) = (await TransactionReader().read(text)).pdus
    assert received.is_deep
    parsed = (await received.parse(event.version)).event
    assert parsed.raw == parse_pdu(pdu, event.version).raw == event.raw
