"""Whose signatures an event needs, and over which bytes."""

from __future__ import annotations

from typing import Any

import pytest

from federation.events import canonical_json, hashes
from federation.events.event import Event, parse_pdu
from federation.events.redaction import redact_event
from federation.events.room_versions import room_version
from federation.events.signatures import (
    authorising_server,
    is_third_party_invite,
    originating_servers,
    required_signers,
    signature_payload,
    signatures_of,
)


def event_of(name: str = "11", **changes: Any) -> Event:
    """Returns an event by @a:one, unsigned."""
    pdu: dict[str, Any] = {
        "type": "m.room.member",
        "state_key": "@a:one",
        "room_id": "!r:one",
        "sender": "@a:one",
        "content": {"membership": "join", "displayname": "A"},
        "depth": 5,
        "origin_server_ts": 1,
        "prev_events": [],
        "auth_events": [],
        "signatures": {"one": {"ed25519:1": "AA"}, "two": {"rsa:1": "BB"}},
        **changes,
    }
    pdu["hashes"] = {"sha256": hashes.content_hash(pdu)}
    return parse_pdu(pdu, room_version(name))


def test_the_senders_server_signs() -> None:
    assert required_signers(event_of()) == {"one"}


def test_the_server_that_authorises_a_restricted_join_signs_too() -> None:
    content = {"membership": "join", "join_authorised_via_users_server": "@b:two"}
    event = event_of(content=content)
    assert required_signers(event) == {"one", "two"}
    assert originating_servers(event) == {"one"}
    assert authorising_server(event_of("7", content=content)) is None
    assert authorising_server(event_of(content=content, type="m.room.message")) is None


@pytest.mark.parametrize("value", [5, "b:two", "@b", None])
def test_an_authoriser_that_is_no_user_names_no_server(value: object) -> None:
    content = {"membership": "join", "join_authorised_via_users_server": value}
    assert authorising_server(event_of(content=content)) is None


def test_an_invite_from_a_third_party_invite_may_come_from_any_server() -> None:
    event = event_of(content={"membership": "invite", "third_party_invite": {}})
    assert is_third_party_invite(event)
    assert required_signers(event) == set()
    join = event_of(content={"membership": "join", "third_party_invite": {}})
    assert required_signers(join) == {"one"}


def test_where_servers_make_event_ids_the_ids_server_signs_too() -> None:
    event = event_of("1", event_id="$e:three")
    assert required_signers(event) == {"one", "three"}


def test_the_payload_is_the_redacted_event_without_signatures() -> None:
    event = event_of(unsigned={"age": 1})
    payload = canonical_json.decode(signature_payload(event))
    assert payload["content"] == {"membership": "join"}
    assert "signatures" not in payload
    assert "hashes" in payload
    assert signature_payload(redact_event(event)) == signature_payload(event)
    assert hashes.event_id_of_payload(signature_payload(event), event.version) == event.event_id


def test_signatures_are_those_that_the_event_bears() -> None:
    assert signatures_of(event_of()) == {"one": {"ed25519:1": "AA"}, "two": {"rsa:1": "BB"}}
