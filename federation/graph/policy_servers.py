"""Policy servers: does the one that a room uses recommend an event? (spec: server-server API,
"Policy Servers", v1.18; check 7 of "Checks performed on receipt of a PDU").

Rules:
1. Whether a room uses one follows from its current state alone (`policy_server_of`).
2. A recommendation is a signature by the key that the room's state names, under a fixed key ID;
   the policy server's published keys have no part in it.
3. What isn't recommended is soft-failed, never rejected: the auth rules don't know of it. The
   caller may ask the policy server for a signature first, and check again.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Final

from federation.events.event import Event
from federation.events.ids import KeyId, ServerName
from federation.events.signatures import signature_payload, signatures_of
from federation.events.signing import SignatureInvalid, VerifyKey
from federation.graph.auth_state import Lookup

POLICY_KEY_ID: Final = KeyId("ed25519:policy_server")
_POLICY: Final = ("m.room.policy", "")
NOT_RECOMMENDED: Final = "not_recommended"
"""Names the refusal in stored reasons, as an auth rule's value does."""


@dataclass(frozen=True, slots=True)
class PolicyServer:
    """The policy server that a room uses, and the public key (Base64) that the room trusts."""

    server: ServerName
    public_key: str


@dataclass(frozen=True, slots=True)
class NotRecommended:
    """Why an event lacks the policy server's recommendation."""

    detail: str

    def __str__(self) -> str:
        return f"{NOT_RECOMMENDED}: {self.detail}"


def policy_server_of(state: Lookup, joined_servers: Container[ServerName]) -> PolicyServer | None:
    """The policy server of a room with this current state; None where it uses none.

    Spec: "Determining if a Policy Server is enabled in a room". `joined_servers` are the servers
    with a joined user.
    """
    event = state(_POLICY)
    content = {} if event is None else event.content
    via, keys = content.get("via"), content.get("public_keys")
    key = keys.get("ed25519") if isinstance(keys, dict) else None
    if type(via) is not str or type(key) is not str or via not in joined_servers:
        return None
    return PolicyServer(ServerName(via), key)


def check_policy(event: Event, policy: PolicyServer | None) -> NotRecommended | None:
    """Check 7: None when the event is recommended, or needs no recommendation.

    Spec: "Validating Policy Server signatures".
    """
    if policy is None or (event.is_state and event.key == _POLICY):
        return None
    signature = signatures_of(event).get(policy.server, {}).get(POLICY_KEY_ID)
    if signature is None:
        return NotRecommended(f"{policy.server} has not signed it")
    try:
        key = VerifyKey.from_base64(POLICY_KEY_ID, policy.public_key)
        key.verify(signature_payload(event), signature)
    except SignatureInvalid as error:
        return NotRecommended(f"the signature of {policy.server}: {error}")
    return None
