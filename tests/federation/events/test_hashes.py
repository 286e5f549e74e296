"""Content hash, reference hash and event IDs: the specification's vectors, with negatives."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from federation.events import hashes
from federation.events.canonical_json import NotCanonical
from federation.events.redaction_rules import redact
from federation.events.room_versions import room_version
from federation.events.signing import SigningKey, decode_base64, encode_base64, sign_json

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "signing.json").read_text())
KEY = SigningKey.generate(decode_base64(VECTORS["seed"]), "1")
V1 = room_version("1")

PDU = {
    "type": "m.room.message",
    "room_id": "!x:domain",
    "sender": "@a:domain",
    "content": {"body": "hi"},
    "depth": 1,
    "origin_server_ts": 1,
    "prev_events": [],
    "auth_events": [],
    "hashes": {"sha256": "AA"},
}


@pytest.mark.parametrize("case", VECTORS["events"])
def test_a_vector_of_the_specification_is_hashed_and_signed_as_it_says(
    case: dict[str, Any],
) -> None:
    pdu = dict(case["event"])
    assert hashes.content_hash(pdu) == case["sha256"]
    assert hashes.content_hash(pdu, V1) == case["sha256"]
    pdu["hashes"] = {"sha256": case["sha256"]}
    signed = sign_json(redact(pdu, V1), "domain", KEY)
    assert signed["signatures"] == {"domain": {"ed25519:1": case["signature"]}}
    assert KEY.sign(hashes.reference_payload(pdu, V1)) == case["signature"]


@pytest.mark.parametrize("case", VECTORS["events"])
def test_a_vector_with_another_content_has_another_hash(case: dict[str, Any]) -> None:
    pdu = {**case["event"], "content": {"body": "Here is another content"}}
    assert hashes.content_hash(pdu) != case["sha256"]


@pytest.mark.parametrize("ignored", ["unsigned", "signatures", "hashes"])
def test_the_content_hash_leaves_out_what_may_change(ignored: str) -> None:
    assert hashes.content_hash({**PDU, ignored: {"x": 1}}) == hashes.content_hash(PDU)


def test_the_content_hash_covers_unknown_fields() -> None:
    assert hashes.content_hash({**PDU, "extra": 1}) != hashes.content_hash(PDU)


def test_the_reference_hash_covers_the_content_hash_but_not_the_content() -> None:
    version = room_version("11")
    whole = hashes.event_id_of(PDU, version)
    assert hashes.event_id_of({**PDU, "content": {"body": "else"}}, version) == whole
    assert hashes.event_id_of({**PDU, "signatures": {"a": {}}, "unsigned": {}}, version) == whole
    assert hashes.event_id_of({**PDU, "hashes": {"sha256": "AB"}}, version) != whole


def test_the_form_of_event_ids_follows_the_version() -> None:
    digest = sha256(hashes.reference_payload(PDU, room_version("3"))).digest()
    assert hashes.event_id_of(PDU, room_version("3")) == "$" + encode_base64(digest)
    later = hashes.event_id_of(PDU, room_version("4"))
    assert later == "$" + encode_base64(digest).replace("+", "-").replace("/", "_")
    assert hashes.event_id_of({**PDU, "event_id": "$made:domain"}, V1) == "$made:domain"
    with pytest.raises(KeyError):
        hashes.event_id_of(PDU, V1)


def test_floats_are_hashed_in_old_versions_only() -> None:
    pdu = {**PDU, "content": {"x": 1.5}}
    assert hashes.content_hash(pdu, room_version("5"))
    with pytest.raises(NotCanonical):
        hashes.content_hash(pdu, room_version("6"))
    with pytest.raises(NotCanonical):
        hashes.content_hash(pdu)
