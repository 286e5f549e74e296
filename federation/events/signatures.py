"""The signatures that an event needs, and the signed bytes (spec: server-server API,
"Validating hashes and signatures on received events").

Rules:
1. The sender's server signs, except invites that follow from a third-party invite.
2. The server of `join_authorised_via_users_server` signs too (auth rule of `m.room.member`).
3. Where servers make event IDs, the ID's server signs if it is another.
"""

from __future__ import annotations

from typing import Any

from federation.events import canonical_json, event_types, hashes, ids
from federation.events.canonical_json import JsonObject
from federation.events.event import Event, SignedEvent
from federation.events.ids import InvalidIdentifier, KeyId, ServerName, server_of


def authorising_server(event: Event) -> ServerName | None:
    """Returns the server of the user who authorised a restricted join, if the content names one.

    A value that isn't a user ID gives None; the auth rules reject it.
    """
    if event.type != event_types.MEMBER or not event.version.restricted_joins:
        return None
    user_id = event.content.get("join_authorised_via_users_server")
    if type(user_id) is not str:
        return None
    try:
        return server_of(ids.parse_user_id(user_id))
    except InvalidIdentifier:
        return None


def is_third_party_invite(event: Event) -> bool:
    """Returns whether it is an invite made from a third-party invite, which any server may send."""
    return event.membership == "invite" and "third_party_invite" in event.content


def originating_servers(event: Event) -> frozenset[ServerName]:
    """Returns the servers without whose signature the event is dropped (check 2)."""
    servers = set()
    if not is_third_party_invite(event):
        servers.add(server_of(event.sender))
    if not event.version.event_ids_are_hashes:
        servers.add(server_of(event.event_id))
    return frozenset(servers)


def required_signers(event: Event) -> frozenset[ServerName]:
    """Returns all servers whose valid signature the event needs."""
    authorising = authorising_server(event)
    if authorising is None:
        return originating_servers(event)
    return originating_servers(event) | {authorising}


def signed_parts(event: Event) -> SignedEvent:
    """Returns the event with what its signatures are verified by; its bytes are read for it."""
    pdu = canonical_json.decode_lenient(event.raw)
    payload = hashes.reference_payload(pdu, event.version)
    return SignedEvent(event, payload, _signatures(pdu))


def signature_payload(event: Event) -> bytes:
    """Returns the bytes that its signers signed: the redacted event without signatures and
    unsigned."""
    return signed_parts(event).payload


def signatures_of(event: Event) -> dict[ServerName, dict[KeyId, str]]:
    """Returns the signatures that the event bears, per server and key; not verified."""
    return _signatures(canonical_json.decode_lenient(event.raw))


def _signatures(pdu: JsonObject) -> dict[ServerName, dict[KeyId, str]]:
    found: dict[str, Any] = pdu.get("signatures", {})
    return {
        ServerName(server): {KeyId(key_id): text for key_id, text in made.items()}
        for server, made in found.items()
    }
