"""Auth rules of `m.room.member` (spec: room versions, "Authorisation rules"; rule 5 of v12,
rule 4 of v6 to v11, whose numbering is the same below the first level).

Rules:
1. One function per membership; its steps have the order and the numbers of the specification.
2. A feature that the version lacks (knock, restricted joins) counts as an unknown value.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, Final

from federation.events import canonical_json, event_types
from federation.events.canonical_json import NotCanonical
from federation.events.event import Event
from federation.events.ids import InvalidIdentifier, ServerName, parse_user_id, server_of
from federation.events.signing import SignatureInvalid, VerifyKey
from federation.graph.auth.auth_failures import AuthFailure, AuthRule
from federation.graph.auth.auth_state import AuthState
from federation.limits import QUOTED_CHARACTERS_MAX

VerifiedServers = Container[ServerName] | None
"""Servers whose signatures were verified; None when an earlier check verified them."""


def check_membership(
    event: Event, state: AuthState, verified_servers: VerifiedServers
) -> AuthFailure | None:
    """Checks rule 5 for a member event; returns None when it is allowed."""
    # 5.1: a member event has a state key and a membership
    if event.state_key is None or "membership" not in event.content:
        return AuthFailure(AuthRule.MEMBER_MALFORMED, "no state_key or no membership")
    # 5.2: the server of the user that authorises a restricted join signed the event
    if state.version.restricted_joins and "join_authorised_via_users_server" in event.content:
        failure = _check_authorising_signature(event, verified_servers)
        if failure is not None:
            return failure
    # 5.3 to 5.7: join, invite, leave, ban, knock
    membership = event.content["membership"]
    check = _CHECKS.get(membership) if type(membership) is str else None
    if check is None or (membership == "knock" and not state.version.knock):
        # 5.8: any other membership is refused
        return AuthFailure(
            AuthRule.MEMBERSHIP_UNKNOWN, f"membership {str(membership)[:QUOTED_CHARACTERS_MAX]!r}"
        )
    return check(event, event.state_key, state)


def _check_authorising_signature(
    event: Event, verified_servers: VerifiedServers
) -> AuthFailure | None:
    user_id = event.content["join_authorised_via_users_server"]
    rule = AuthRule.JOIN_UNSIGNED_BY_AUTHORISER
    if type(user_id) is not str:
        return AuthFailure(rule, "join_authorised_via_users_server is not a user ID")
    try:
        server = server_of(parse_user_id(user_id))
    except InvalidIdentifier as error:
        return AuthFailure(rule, f"join_authorised_via_users_server: {error}")
    if verified_servers is not None and server not in verified_servers:
        return AuthFailure(rule, f"not signed by {server}")
    return None


def _is_creators_first_join(event: Event, target: str, state: AuthState) -> bool:
    create = state.create
    if create is None or event.prev_events != (create.event_id,):
        return False
    if state.version.creator_in_content:
        return bool(target == create.content.get("creator"))
    return target == create.sender


def _check_join(event: Event, target: str, state: AuthState) -> AuthFailure | None:
    # 5.3.1: the creator joins directly after the create event
    if _is_creators_first_join(event, target, state):
        return None
    # 5.3.2: users may join only themselves
    if event.sender != target:
        return AuthFailure(AuthRule.JOIN_OF_OTHER_USER, f"{event.sender} joins {target}")
    membership = state.membership(target)
    # 5.3.3: banned users may not join
    if membership == "ban":
        return AuthFailure(AuthRule.JOIN_WHILE_BANNED, f"{target} is banned")
    join_rule, version = state.join_rule, state.version
    # 5.3.4: join rules `invite` and `knock` let invited and joined users join
    if join_rule == "invite" or (join_rule == "knock" and version.knock):
        if membership in ("invite", "join"):
            return None
        return AuthFailure(AuthRule.JOIN_WITHOUT_INVITE, f"{target} is not invited")
    # 5.3.5: join rules `restricted` and `knock_restricted` need an authorising user
    if (join_rule == "restricted" and version.restricted_joins) or (
        join_rule == "knock_restricted" and version.knock_restricted
    ):
        return _check_restricted_join(event, target, membership, state)
    # 5.3.6: join rule `public` lets everybody join
    if join_rule == "public":
        return None
    # 5.3.7: any other join rule refuses
    return AuthFailure(
        AuthRule.JOIN_RULE_FORBIDS, f"join rule {join_rule[:QUOTED_CHARACTERS_MAX]!r}"
    )


def _check_restricted_join(
    event: Event, target: str, membership: str | None, state: AuthState
) -> AuthFailure | None:
    # 5.3.5.1: invited and joined users need no authorisation
    if membership in ("join", "invite"):
        return None
    # 5.3.5.2: the authorising user must be joined and have the power to invite
    authoriser = event.content.get("join_authorised_via_users_server")
    if type(authoriser) is not str:
        return AuthFailure(AuthRule.JOIN_NOT_AUTHORISED, f"nobody authorised {target}")
    if state.membership(authoriser) != "join":
        return AuthFailure(AuthRule.JOIN_NOT_AUTHORISED, f"{authoriser} is not joined")
    levels = state.power_levels
    if levels.user(authoriser) < levels.invite:
        return AuthFailure(AuthRule.JOIN_NOT_AUTHORISED, f"{authoriser} may not invite")
    # 5.3.5.3: otherwise the restricted join is allowed
    return None


def _check_invite(event: Event, target: str, state: AuthState) -> AuthFailure | None:
    # 5.4.1: an invite made from a third-party invite has checks of its own
    if "third_party_invite" in event.content:
        return _check_third_party_invite(event, target, state)
    # 5.4.2: only joined users may invite
    if state.membership(event.sender) != "join":
        return AuthFailure(AuthRule.INVITE_BY_NON_MEMBER, f"{event.sender} is not joined")
    # 5.4.3: joined and banned users may not be invited
    membership = state.membership(target)
    if membership in ("join", "ban"):
        return AuthFailure(
            AuthRule.INVITE_OF_MEMBER_OR_BANNED, f"{target} has membership {membership}"
        )
    # 5.4.4: the invite level suffices
    levels = state.power_levels
    level = levels.user(event.sender)
    if level >= levels.invite:
        return None
    # 5.4.5: otherwise the invite is refused
    return AuthFailure(AuthRule.INVITE_LEVEL, f"{event.sender} has {level} of {levels.invite}")


def _check_third_party_invite(event: Event, target: str, state: AuthState) -> AuthFailure | None:
    # 5.4.1.1: banned users may not be invited
    if state.membership(target) == "ban":
        return AuthFailure(AuthRule.THIRD_PARTY_INVITE_TARGET_BANNED, f"{target} is banned")
    # 5.4.1.2: `signed` must be there
    invite = event.content["third_party_invite"]
    signed = invite.get("signed") if type(invite) is dict else None
    if type(signed) is not dict:
        return AuthFailure(AuthRule.THIRD_PARTY_INVITE_WITHOUT_SIGNED, "signed is not an object")
    # 5.4.1.3: `signed` must have `mxid` and `token`
    token = signed.get("token")
    if "mxid" not in signed or type(token) is not str:
        return AuthFailure(AuthRule.THIRD_PARTY_INVITE_MALFORMED, "mxid or token is missing")
    # 5.4.1.4: `mxid` must be the invited user
    if signed["mxid"] != target:
        return AuthFailure(AuthRule.THIRD_PARTY_INVITE_OTHER_USER, f"mxid is not {target}")
    # 5.4.1.5: the state must have the third-party invite that the token names
    original = state.event((event_types.THIRD_PARTY_INVITE, token))
    if original is None:
        return AuthFailure(AuthRule.THIRD_PARTY_INVITE_UNKNOWN, "no invite has this token")
    # 5.4.1.6: both invites must have the same sender
    if event.sender != original.sender:
        return AuthFailure(
            AuthRule.THIRD_PARTY_INVITE_OTHER_SENDER, f"the invite is by {original.sender}"
        )
    # 5.4.1.7: one signature by one public key of the third-party invite suffices
    if _is_signed_by_any(signed, _public_keys(original.content)):
        return None
    # 5.4.1.8: otherwise the invite is refused
    return AuthFailure(AuthRule.THIRD_PARTY_INVITE_UNSIGNED, "no signature matches a public key")


def _public_keys(content: Mapping[str, Any]) -> Iterator[str]:
    """Yields the keys in the standard Base64 alphabet.

    Spec: m.room.third_party_invite, `public_key`, the one field that permits both alphabets.
    """
    single = content.get("public_key")
    if type(single) is str:
        yield single.translate(_FROM_URL_SAFE)
    several = content.get("public_keys")
    for entry in several if type(several) is list else ():
        key = entry.get("public_key") if type(entry) is dict else None
        if type(key) is str:
            yield key.translate(_FROM_URL_SAFE)


_FROM_URL_SAFE: Final = str.maketrans("-_", "+/")


def _ed25519_signatures(signed: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    signatures = signed.get("signatures")
    for made in signatures.values() if type(signatures) is dict else ():
        for key_id, text in made.items() if type(made) is dict else ():
            if key_id.startswith("ed25519:") and type(text) is str:
                yield key_id, text


def _is_signed_by_any(signed: Mapping[str, Any], public_keys: Iterator[str]) -> bool:
    """Returns whether any signature matches any key; the names of the keys do not matter."""
    keys = list(public_keys)
    payload = {name: value for name, value in signed.items() if name not in _UNSIGNED}
    try:
        data = canonical_json.encode(payload)
    except NotCanonical:
        return False
    for key_id, text in _ed25519_signatures(signed):
        for key in keys:
            try:
                VerifyKey.from_base64(key_id, key).verify(data, text)
            except SignatureInvalid:
                continue
            return True
    return False


_UNSIGNED: Final = frozenset({"signatures", "unsigned"})


def _check_leave(event: Event, target: str, state: AuthState) -> AuthFailure | None:
    sender = event.sender
    membership = state.membership(target)
    # 5.5.1: users who are invited, joined or knocking may leave
    if sender == target:
        if membership in ("invite", "join") or (membership == "knock" and state.version.knock):
            return None
        return AuthFailure(
            AuthRule.LEAVE_WITHOUT_MEMBERSHIP, f"{target} has membership {membership}"
        )
    # 5.5.2: only joined users may remove others
    if state.membership(sender) != "join":
        return AuthFailure(AuthRule.KICK_BY_NON_MEMBER, f"{sender} is not joined")
    # 5.5.3: lifting a ban needs the ban level
    levels = state.power_levels
    level, target_level = levels.user(sender), levels.user(target)
    if membership == "ban" and level < levels.ban:
        return AuthFailure(AuthRule.UNBAN_LEVEL, f"{sender} has {level} of {levels.ban}")
    # 5.5.4: a kick needs the kick level and more power than the target has
    if level >= levels.kick and target_level < level:
        return None
    # 5.5.5: otherwise the kick is refused
    return AuthFailure(
        AuthRule.KICK_LEVEL,
        f"{sender} has {level} of {levels.kick}; {target} has {target_level}",
    )


def _check_ban(event: Event, target: str, state: AuthState) -> AuthFailure | None:
    sender = event.sender
    # 5.6.1: only joined users may ban
    if state.membership(sender) != "join":
        return AuthFailure(AuthRule.BAN_BY_NON_MEMBER, f"{sender} is not joined")
    # 5.6.2: a ban needs the ban level and more power than the target has
    levels = state.power_levels
    level, target_level = levels.user(sender), levels.user(target)
    if level >= levels.ban and target_level < level:
        return None
    # 5.6.3: otherwise the ban is refused
    return AuthFailure(
        AuthRule.BAN_LEVEL, f"{sender} has {level} of {levels.ban}; {target} has {target_level}"
    )


def _check_knock(event: Event, target: str, state: AuthState) -> AuthFailure | None:
    # 5.7.1: the join rule must permit knocking
    join_rule = state.join_rule
    if join_rule != "knock" and not (
        join_rule == "knock_restricted" and state.version.knock_restricted
    ):
        return AuthFailure(AuthRule.KNOCK_RULE, f"join rule {join_rule[:QUOTED_CHARACTERS_MAX]!r}")
    # 5.7.2: users may knock only for themselves
    if event.sender != target:
        return AuthFailure(AuthRule.KNOCK_OF_OTHER_USER, f"{event.sender} knocks for {target}")
    # 5.7.3: users who are not banned, invited or joined may knock
    membership = state.membership(target)
    if membership not in ("ban", "invite", "join"):
        return None
    # 5.7.4: otherwise the knock is refused
    return AuthFailure(AuthRule.KNOCK_BY_MEMBER, f"{target} has membership {membership}")


_CHECKS: Final[Mapping[str, Callable[[Event, str, AuthState], AuthFailure | None]]] = {
    "join": _check_join,
    "invite": _check_invite,
    "leave": _check_leave,
    "ban": _check_ban,
    "knock": _check_knock,
}
