"""A slow, naive, separate implementation of the authorisation rules, for the tests.

Written from the spec's text (rooms/v1.md to v12.md with their fragments; appendices, "Server Name",
"Historical User IDs", "Signing JSON"; m.room.power_levels) rule by rule, on plain JSON. It shares
no code with `federation`.

Rules:
1. What a page says stands in one function per rule, in the page's order. A refusal is the rule's
   number on that page, as precise as the page; None is an allowed event.
2. A version is its number, and a rule that came or went says "since": that is how the pages read.
3. Where the text leaves a choice, the choice is marked *Choice*.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import canonicaljson
from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

Json = Mapping[str, Any]
VERSIONS = frozenset(str(number) for number in range(1, 13))


@dataclass(frozen=True)
class Told:
    """An event as told: its ID, and its JSON."""

    event_id: str
    pdu: Json

    @property
    def content(self) -> Json:
        """Its content."""
        content: Json = self.pdu["content"]
        return content

    @property
    def key(self) -> tuple[str, str]:
        """Its place in the state."""
        return (self.pdu["type"], self.pdu["state_key"])


Lookup = Callable[[tuple[str, str]], Told | None]


def told(event_id: str, raw: bytes) -> Told:
    """Returns an event from its ID and JSON."""
    return Told(event_id, json.loads(raw))


@dataclass(frozen=True)
class Case:
    """One question: an event, the state it is checked against, the version's number, and the
    servers whose signatures it validly bears (None: all that matter)."""

    event: Told
    state: Lookup
    version: int
    signed_by: Collection[str] | None = None

    @property
    def content(self) -> Json:
        """The event's content."""
        return self.event.content

    @property
    def sender(self) -> str:
        """The event's sender."""
        sender: str = self.event.pdu["sender"]
        return sender

    @property
    def target(self) -> Any:
        """The event's state key."""
        return self.event.pdu.get("state_key")

    def membership(self, user_id: Any) -> Any:
        """Returns a user's membership in the state."""
        found = self.state(("m.room.member", user_id)) if isinstance(user_id, str) else None
        return None if found is None else found.content.get("membership")

    def join_rule(self) -> Any:
        """*Choice:* without a join rule in the state it is `invite`, the rule of a new room."""
        found = self.state(("m.room.join_rules", ""))
        rule = None if found is None else found.content.get("join_rule")
        return rule if isinstance(rule, str) else "invite"

    def top(self, number: int) -> int:
        """Returns a top-level number of version 1's page as this version's page has it: version 6
        lost rule 4, version 12 got a new rule 2."""
        if self.version >= 6 and number > 4:
            number -= 1
        if self.version >= 12 and number > 1:
            number += 1
        return number


def domain(identifier: str) -> str:
    """Returns the text after the first colon."""
    return identifier.split(":", 1)[1]


def room_of(event: Told, version: int) -> str:
    """Returns the room that an event belongs to; since version 12 a create event's ID names it."""
    if version >= 12 and event.pdu["type"] == "m.room.create":
        return "!" + event.event_id[1:]
    room_id: str = event.pdu["room_id"]
    return room_id


def prev_ids(event: Told, version: int) -> list[str]:
    """`prev_events` as IDs: up to version 2 they are pairs of ID and hash."""
    return [entry[0] if version <= 2 else entry for entry in event.pdu["prev_events"]]


# --- levels -------------------------------------------------------------------------------------


def level(value: Any, version: int) -> int | None:
    """Returns a level; None when it isn't one.

    Version 10 on: integers. Before: strings of the given form too ("accept values as strings") and
    floats, truncated ("accept values as floats"; their JSON can't be had since version 6).
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if version >= 10:
        return None
    if isinstance(value, float):
        return math.trunc(value) if math.isfinite(value) else None
    return string_level(value) if isinstance(value, str) else None


def string_level(text: str) -> int | None:
    """Whitespace, one sign, digits, whitespace. *Choice:* whitespace is ASCII's."""
    digits = text.strip(" \t\n\r\f\v")
    sign = 1
    if digits[:1] in ("+", "-"):
        sign = -1 if digits[0] == "-" else 1
        digits = digits[1:]
    if not digits or any(char not in "0123456789" for char in digits):
        return None
    total = 0
    for char in digits.lstrip("0"):
        total = total * 10 + "0123456789".index(char)
    return sign * total


def entries(content: Json, name: str) -> Json:
    """Returns a map of levels; *Choice:* what is not an object has no entries."""
    given = content.get(name)
    return given if isinstance(given, dict) else {}


def current_levels(case: Case) -> Json | None:
    """Returns the content of the power levels in force."""
    found = case.state(("m.room.power_levels", ""))
    return None if found is None else found.content


def named_level(case: Case, name: str) -> int:
    """Returns the level of an action (m.room.power_levels). *Choice:* what can't be read isn't
    there."""
    default = 50 if name in ("ban", "kick", "redact", "state_default") else 0
    found = level((current_levels(case) or {}).get(name), case.version)
    return default if found is None else found


def creators(case: Case) -> set[str]:
    """Returns the room's creators, as the version counts them."""
    create = case.state(("m.room.create", ""))
    assert create is not None
    if case.version <= 10:
        return {create.content["creator"]} if "creator" in create.content else set()
    found = {create.pdu["sender"]}
    if case.version >= 12:
        found.update(create.content.get("additional_creators", []))
    return found


def user_level(case: Case, user_id: str) -> float:
    """Returns a user's level (m.room.power_levels, `users_default`)."""
    if case.version >= 12 and user_id in creators(case):
        return math.inf
    content = current_levels(case)
    if content is None:
        return 100 if user_id in creators(case) else 0
    own = level(entries(content, "users").get(user_id), case.version)
    return named_level(case, "users_default") if own is None else own


def required_level(case: Case) -> int:
    """Returns the level that the event's type takes."""
    content = current_levels(case) or {}
    own = level(entries(content, "events").get(case.event.pdu["type"]), case.version)
    if own is not None:
        return own
    return named_level(case, "events_default" if case.target is None else "state_default")


# --- identifiers and signatures -----------------------------------------------------------------


def is_user_id(text: Any) -> bool:
    """Appendices, "Historical User IDs": any localpart without ':' and NUL, 255 bytes at most."""
    if not isinstance(text, str) or text[:1] != "@" or ":" not in text:
        return False
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return False
    return size <= 255 and "\0" not in text.split(":")[0] and is_server_name(domain(text))


def is_server_name(text: str) -> bool:
    """Appendices, "Server Name"."""
    host, port = text, None
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        if not bracket or (rest and rest[0] != ":"):
            return False
        port = rest[1:] if rest else None
        inside = host[1:]
        if not 2 <= len(inside) <= 45 or set(inside) - set("0123456789ABCDEFabcdef:."):
            return False
    else:
        if ":" in text:
            host, _, port = text.partition(":")
        if not 1 <= len(host) <= 255 or not all(
            (c.isascii() and c.isalnum()) or c in "-." for c in host
        ):
            return False
        parts = host.split(".")
        quad = len(parts) == 4 and all(part.isdigit() and len(part) <= 3 for part in parts)
        if quad and any(int(part) > 255 for part in parts):
            return False
    return port is None or (1 <= len(port) <= 5 and all(c in "0123456789" for c in port))


def unbase64(text: Any) -> bytes:
    """Returns unpadded Base64, of the standard or the URL-safe alphabet; nothing for what isn't."""
    if not isinstance(text, str):
        return b""
    try:
        standard = text.replace("-", "+").replace("_", "/")
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


def is_signed(signed: Json, public_key: Any) -> bool:
    """Whether any Ed25519 signature in `signed` matches this key (appendices, "Signing JSON")."""
    rest = {name: signed[name] for name in signed if name not in ("signatures", "unsigned")}
    made = signed.get("signatures")
    for by_key in made.values() if isinstance(made, dict) else ():
        for key_id, signature in by_key.items() if isinstance(by_key, dict) else ():
            if not key_id.startswith("ed25519:"):
                continue
            try:
                payload = canonicaljson.encode_canonical_json(rest)
                VerifyKey(unbase64(public_key)).verify(payload, unbase64(signature))
            except (CryptoError, ValueError):
                continue
            return True
    return False


# --- the rules ----------------------------------------------------------------------------------


def refusal(case: Case) -> str | None:
    """Returns the number of the rule that refuses the event in this state; None when it is allowed.

    Rule 2 of versions 1 to 11, 2 and 3 of version 12, on the event's own `auth_events`, is
    `auth_events_refusals`; of it only this remains here: there is a create event, of this room.
    """
    event, version = case.event, case.version
    kind = event.pdu["type"]
    # 1
    if kind == "m.room.create":
        return create_refusal(event, version)
    create = case.state(("m.room.create", ""))
    if create is None:
        return "2" if version >= 12 else "2.4"
    if room_of(event, version) != room_of(create, version):
        return "2" if version >= 12 else "2.5"
    # 3 of version 1
    federates = create.content.get("m.federate", True) is not False
    if not federates and domain(case.sender) != domain(create.pdu["sender"]):
        return str(case.top(3))
    # 4, up to version 5
    if version <= 5 and kind == "m.room.aliases":
        if case.target is None:
            return "4.1"
        return "4.2" if domain(case.sender) != case.target else None
    # 5
    if kind == "m.room.member":
        found = member_refusal(case)
        return None if found is None else f"{case.top(5)}.{found}"
    # 6
    if case.membership(case.sender) != "join":
        return str(case.top(6))
    return refusal_of_joined(case)


def create_refusal(event: Told, version: int) -> str | None:
    """Rule 1."""
    content = event.content
    if event.pdu["prev_events"]:
        return "1.1"
    if version >= 12:
        if "room_id" in event.pdu:
            return "1.2"
    elif domain(event.pdu["room_id"]) != domain(event.pdu["sender"]):
        return "1.2"
    if "room_version" in content:
        named = content["room_version"]
        if not isinstance(named, str) or named not in VERSIONS:
            return "1.3"
    if version <= 10 and "creator" not in content:
        return "1.4"
    if version >= 12 and "additional_creators" in content:
        additional = content["additional_creators"]
        if not isinstance(additional, list) or not all(is_user_id(user) for user in additional):
            return "1.4"
    return None


def refusal_of_joined(case: Case) -> str | None:
    """Rules 7 to 12 of version 1."""
    kind, mine = case.event.pdu["type"], user_level(case, case.sender)
    # 7
    if kind == "m.room.third_party_invite":
        return None if mine >= named_level(case, "invite") else f"{case.top(7)}.1"
    # 8
    if required_level(case) > mine:
        return str(case.top(8))
    # 9
    if isinstance(case.target, str) and case.target.startswith("@") and case.target != case.sender:
        return str(case.top(9))
    # 10
    if kind == "m.room.power_levels":
        if case.target is None:  # deployed: they are state
            return str(case.top(10))
        found = levels_refusal(case, mine)
        return None if found is None else f"{case.top(10)}.{found}"
    # 11, up to version 2
    if kind == "m.room.redaction" and case.version <= 2:
        redacts: Any = case.event.pdu.get("redacts")
        if mine >= named_level(case, "redact"):
            return None
        same = isinstance(redacts, str) and ":" in redacts
        if same and domain(redacts) == domain(case.event.event_id):
            return None
        return "11.3"
    # 12
    return None


def member_refusal(case: Case) -> str | None:
    """Rule 5 of version 1, without the number before the first point."""
    version, content = case.version, case.content
    # 5.1
    if case.target is None or "membership" not in content:
        return "1"
    # 5.2, since version 8
    since_8 = version >= 8
    authoriser: Any = content.get("join_authorised_via_users_server")
    if since_8 and "join_authorised_via_users_server" in content:
        # A value that is not a user ID has no homeserver that could have signed.
        if not is_user_id(authoriser):
            return "2.1"
        if case.signed_by is not None and domain(authoriser) not in case.signed_by:
            return "2.1"
    rules = [("join", join_refusal), ("invite", invite_refusal), ("leave", leave_refusal)]
    rules.append(("ban", ban_refusal))
    if version >= 7:
        rules.append(("knock", knock_refusal))
    for number, (membership, rule) in enumerate(rules, 3 if since_8 else 2):
        if content["membership"] == membership:
            found = rule(case)
            return None if found is None else f"{number}.{found}"
    return str(len(rules) + (3 if since_8 else 2))


def join_refusal(case: Case) -> str | None:
    """`membership` is `join`."""
    version, rule = case.version, case.join_rule()
    create = case.state(("m.room.create", ""))
    assert create is not None
    # 1
    creator = create.content.get("creator") if version <= 10 else create.pdu["sender"]
    if prev_ids(case.event, version) == [create.event_id] and case.target == creator:
        return None
    # 2
    if case.sender != case.target:
        return "2"
    membership = case.membership(case.sender)
    # 3
    if membership == "ban":
        return "3"
    # 4
    if rule == "invite" or (rule == "knock" and version >= 7):
        return None if membership in ("invite", "join") else "4"
    # 5, since version 8
    if (rule == "restricted" and version >= 8) or (rule == "knock_restricted" and version >= 10):
        if membership in ("join", "invite"):
            return None
        authoriser: Any = case.content.get("join_authorised_via_users_server")
        if case.membership(authoriser) != "join":
            return "5.2"
        return None if user_level(case, authoriser) >= named_level(case, "invite") else "5.2"
    # 6, up to version 7: 5
    if rule == "public":
        return None
    return "7" if version >= 8 else "6"


def invite_refusal(case: Case) -> str | None:
    """`membership` is `invite`."""
    # 1
    if "third_party_invite" in case.content:
        found = third_party_refusal(case)
        return None if found is None else f"1.{found}"
    # 2
    if case.membership(case.sender) != "join":
        return "2"
    # 3
    if case.membership(case.target) in ("join", "ban"):
        return "3"
    # 4, 5
    return None if user_level(case, case.sender) >= named_level(case, "invite") else "5"


def third_party_refusal(case: Case) -> str | None:
    """`content` has a `third_party_invite`."""
    # 1
    if case.membership(case.target) == "ban":
        return "1"
    # 2. Choice: an invite or a signed that is not an object, and a token that is not a string, are
    # none.
    invite = case.content["third_party_invite"]
    signed = invite.get("signed") if isinstance(invite, dict) else None
    if not isinstance(signed, dict):
        return "2"
    # 3
    if "mxid" not in signed or not isinstance(signed.get("token"), str):
        return "3"
    # 4
    if signed["mxid"] != case.target:
        return "4"
    # 5
    original = case.state(("m.room.third_party_invite", signed["token"]))
    if original is None:
        return "5"
    # 6
    if case.sender != original.pdu["sender"]:
        return "6"
    # 7
    keys = [original.content.get("public_key")]
    several = original.content.get("public_keys")
    for entry in several if isinstance(several, list) else []:
        keys.append(entry.get("public_key") if isinstance(entry, dict) else None)
    if any(is_signed(signed, key) for key in keys):
        return None
    # 8
    return "8"


def leave_refusal(case: Case) -> str | None:
    """`membership` is `leave`."""
    target = case.membership(case.target)
    # 1
    if case.sender == case.target:
        may = ("invite", "join", "knock") if case.version >= 7 else ("invite", "join")
        return None if target in may else "1"
    # 2
    if case.membership(case.sender) != "join":
        return "2"
    # 3
    mine = user_level(case, case.sender)
    if target == "ban" and mine < named_level(case, "ban"):
        return "3"
    # 4, 5
    if mine >= named_level(case, "kick") and user_level(case, case.target) < mine:
        return None
    return "5"


def ban_refusal(case: Case) -> str | None:
    """`membership` is `ban`."""
    # 1
    if case.membership(case.sender) != "join":
        return "1"
    # 2, 3
    mine = user_level(case, case.sender)
    if mine >= named_level(case, "ban") and user_level(case, case.target) < mine:
        return None
    return "3"


def knock_refusal(case: Case) -> str | None:
    """`membership` is `knock`, since version 7."""
    rule = case.join_rule()
    # 1
    if rule != "knock" and not (rule == "knock_restricted" and case.version >= 10):
        return "1"
    # 2
    if case.sender != case.target:
        return "2"
    # 3, 4
    return "4" if case.membership(case.sender) in ("ban", "invite", "join") else None


NAMED = ("users_default", "events_default", "state_default", "ban", "redact", "kick", "invite")


def levels_refusal(case: Case, mine: float) -> str | None:
    """Rule 10 of version 1, without the number before the first point.

    The pages' own numbers: version 10 put two rules before the first, version 12 one before the
    one on the first power levels.
    """
    version, content = case.version, case.content
    shift = 2 if version >= 10 else 0
    # 1, 2 of version 10
    if version >= 10:
        if any(name in content and level(content[name], version) is None for name in NAMED):
            return "1"
        for name in ("events", "notifications"):
            if name in content and not is_map_of_levels(content[name], version):
                return "2"
    # 1. Choice: `users` may be missing, as the rules on its changes suppose.
    users = content.get("users", {})
    if not is_map_of_levels(users, version) or not all(is_user_id(user) for user in users):
        return str(1 + shift)
    # 4 of version 12
    if version >= 12:
        shift = 3
        if creators(case) & set(users):
            return "4"
    # 2
    before = current_levels(case)
    if before is None:
        return None
    return change_refusal(case, before, mine, shift)


def is_map_of_levels(value: Any, version: int) -> bool:
    """Returns an object with values that are integers."""
    if not isinstance(value, dict):
        return False
    return all(level(entry, version) is not None for entry in value.values())


BLANK = r"[^\S\x1c-\x1f]*"
DIGITS = re.compile(rf"{BLANK}[-+]?\d+(_\d+)*{BLANK}")


def is_legible(content: Json, version: int) -> bool:
    """Are the levels of old versions such as the most deployed server takes: numbers, truth values
    and texts of digits, of any script, between which single underscores may stand? Of the maps,
    an empty text or list will do as well."""

    def taken(value: Any) -> bool:
        if isinstance(value, str):
            digits = sum(char.isdecimal() for char in value)
            return DIGITS.fullmatch(value) is not None and digits <= 4300
        return isinstance(value, (bool, int, float))

    maps = [content.get(name, {}) for name in ("events", "notifications")[: 1 + (version >= 6)]]
    return all(taken(content[name]) for name in NAMED if name in content) and all(
        all(map(taken, one.values())) if isinstance(one, dict) else one in ("", []) for one in maps
    )


def change_refusal(case: Case, before: Json, mine: float, shift: int) -> str | None:
    """Rules 10.3 to 10.7 of version 1. *Choice:* `"50"` and `50` are one level, and what can't be
    read isn't there."""
    version, now = case.version, case.content

    def changed(old: Json, new: Json, names: Sequence[str]) -> list[tuple[str, Any, Any]]:
        pairs = [(n, level(old.get(n), version), level(new.get(n), version)) for n in names]
        return [pair for pair in pairs if pair[1] != pair[2]]

    def changed_in(name: str) -> list[tuple[str, Any, Any]]:
        old, new = entries(before, name), entries(now, name)
        return changed(old, new, [*old, *(entry for entry in new if entry not in old)])

    # Deployed, before version 10: what is compared can be read; under another state key than ""
    # nothing is compared.
    if (
        case.target == ""
        and version < 10
        and not (is_legible(before, version) and is_legible(now, version))
    ):
        return f"{3 + shift}"
    # 3
    for _, old, new in changed(before, now, NAMED):
        if old is not None and old > mine:
            return f"{3 + shift}.1"
        if new is not None and new > mine:
            return f"{3 + shift}.2"
    maps = changed_in("events") + (changed_in("notifications") if version >= 6 else [])
    # 4
    if any(old is not None and old > mine for _, old, _ in maps):
        return f"{4 + shift}.1"
    # 5
    if any(new is not None and new > mine for _, _, new in maps):
        return f"{5 + shift}.1"
    users = changed_in("users")
    # 6
    if any(old is not None and old >= mine for user, old, _ in users if user != case.sender):
        return f"{6 + shift}.1"
    # 7
    if any(new is not None and new > mine for _, _, new in users):
        return f"{7 + shift}.1"
    # 8
    return None


# --- the event's own auth events ----------------------------------------------------------------


def selection(event: Told, version: int) -> set[tuple[str, str]]:
    """Server-server API, "Auth events selection"."""
    pdu, content = event.pdu, event.content
    if pdu["type"] == "m.room.create":
        return set()
    keys = {("m.room.power_levels", ""), ("m.room.member", pdu["sender"])}
    if version <= 11:
        keys.add(("m.room.create", ""))
    if pdu["type"] != "m.room.member":
        return keys
    membership = content.get("membership")
    if "state_key" in pdu:
        keys.add(("m.room.member", pdu["state_key"]))
    if membership in ("join", "invite", "knock"):
        keys.add(("m.room.join_rules", ""))
    if membership == "invite" and "third_party_invite" in content:
        token: Any = content
        for name in ("third_party_invite", "signed", "token"):
            token = token.get(name) if isinstance(token, dict) else None
        if isinstance(token, str):
            keys.add(("m.room.third_party_invite", token))
    authoriser: Any = content.get("join_authorised_via_users_server")
    if membership == "join" and isinstance(authoriser, str) and version >= 8:
        keys.add(("m.room.member", authoriser))
    return keys


def auth_events_refusals(
    event: Told, cited: Sequence[Told], version: int, rejected: Collection[str]
) -> list[str]:
    """Returns the numbers of all rules that the event's own `auth_events` break, in the page's
    order.

    Rule 2 of versions 1 to 11; 2 and 3 of version 12.
    """
    if event.pdu["type"] == "m.room.create":
        return []
    broken = []
    section = 3 if version >= 12 else 2
    if version >= 12 and "$" + event.pdu["room_id"][1:] in rejected:
        broken.append("2")
    keys = [one.key for one in cited if "state_key" in one.pdu]
    if len(set(keys)) < len(keys):
        broken.append(f"{section}.1")
    if len(keys) < len(cited) or set(keys) - selection(event, version):
        broken.append(f"{section}.2")
    if any(one.event_id in rejected for one in cited):
        broken.append(f"{section}.3")
    if version <= 11 and ("m.room.create", "") not in keys:
        broken.append("2.4")
    if any(room_of(one, version) != room_of(event, version) for one in cited):
        broken.append(f"{section}.5")
    return broken
