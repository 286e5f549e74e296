"""Checks that a room's policy server recommends an event (spec: server-server API, "Policy
Servers", v1.18; check 7 of "Checks performed on receipt of a PDU").

Rules:
1. Whether a room uses a policy server follows from its current state alone (`policy_server_of`).
2. A recommendation is a signature by the key that the room's state names, under a fixed key ID;
   the policy server's published keys have no part in it.
3. An event without a recommendation is soft-failed, never rejected, since it breaks no auth rule.
   The caller may first ask the policy server for a signature, and check again.
4. An obtained signature is added to the event beside all others and sent along with it; neither
   the event ID nor the content hash covers signatures.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Final

import msgspec

from federation.events import canonical_json, event_types, hashes
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import KeyId, ServerName
from federation.events.signatures import signature_payload, signatures_of
from federation.events.signing import SignatureInvalid, VerifyKey
from federation.graph.auth.auth_state import Lookup
from federation.limits import EVENT_BYTES_MAX

POLICY_KEY_ID: Final = KeyId("ed25519:policy_server")
NOT_RECOMMENDED: Final = "not_recommended"
"""The name of the refusal in stored reasons, like the value of an AuthRule."""


@dataclass(frozen=True, slots=True)
class PolicyServer:
    """The policy server that a room uses, and the public key (Base64) that the room trusts."""

    server: ServerName
    public_key: str


@dataclass(frozen=True, slots=True)
class NotRecommended:
    """The reason why an event lacks the policy server's recommendation."""

    detail: str

    def __str__(self) -> str:
        return f"{NOT_RECOMMENDED}: {self.detail}"


def policy_server_of(state: Lookup, joined_servers: Container[ServerName]) -> PolicyServer | None:
    """Returns the policy server of a room with this current state; None where it uses none.

    Spec: "Determining if a Policy Server is enabled in a room". `joined_servers` are the servers
    with a joined user.
    """
    event = state(event_types.POLICY_KEY)
    content = {} if event is None else event.content
    via, keys = content.get("via"), content.get("public_keys")
    key = keys.get("ed25519") if isinstance(keys, dict) else None
    if type(via) is not str or type(key) is not str or via not in joined_servers:
        return None
    return PolicyServer(ServerName(via), key)


def needs_recommendation(event_type: str, state_key: str | None) -> bool:
    """Returns whether events of this kind need a recommendation: all but the state event that
    names the policy server, so that a room can always remove it."""
    return (event_type, state_key) != event_types.POLICY_KEY


def check_policy(event: Event, policy: PolicyServer | None) -> NotRecommended | None:
    """Makes check 7: returns None when the event is recommended, or needs no recommendation.

    Spec: "Validating Policy Server signatures".
    """
    if policy is None or not needs_recommendation(event.type, event.state_key):
        return None
    signature = signatures_of(event).get(policy.server, {}).get(POLICY_KEY_ID)
    return _check_signature(event, policy, signature)


def _check_signature(
    event: Event, policy: PolicyServer, signature: object
) -> NotRecommended | None:
    if not isinstance(signature, str):
        return NotRecommended(f"{policy.server} has not signed it")
    try:
        key = VerifyKey.from_base64(POLICY_KEY_ID, policy.public_key)
        key.verify(signature_payload(event), signature)
    except SignatureInvalid as error:
        return NotRecommended(f"the signature of {policy.server}: {error}")
    return None


def recommended(event: Event, policy: PolicyServer, answer: JsonObject) -> Event | NotRecommended:
    """Returns the event with the signature from a policy server's answer to `/sign`, or the
    reason why the answer is invalid. The event keeps all signatures that it had.

    Spec: server-server API, "POST /_matrix/policy/v1/sign".
    """
    made = answer.get(policy.server)
    signature = made.get(POLICY_KEY_ID) if isinstance(made, dict) else None
    wrong = _check_signature(event, policy, signature)
    if wrong is not None:
        return wrong
    pdu = canonical_json.decode_lenient(event.raw)
    before = pdu["signatures"].get(policy.server, {})
    own = {**before, POLICY_KEY_ID: signature}
    pdu["signatures"] = {**pdu["signatures"], policy.server: own}
    raw = hashes.encode_checked_for(event.version, pdu)
    if len(raw) > EVENT_BYTES_MAX:
        return NotRecommended(f"with its signature it has more than {EVENT_BYTES_MAX} bytes")
    return msgspec.structs.replace(event, raw=raw)
