"""Random states and events that aim at the authorisation rules.

Rules:
1. Everything follows from the version and the seed.
2. Nothing is signed or hashed, and the state is not one that a room could come to: the rules are
   asked about the event and the state, however these came about. Only a create event that its own
   rules would refuse isn't put into a state.
3. Values lie near the limits that rules draw: levels one apart, the users whom a rule compares.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import canonicaljson
import nacl.signing

from federation.events.event import Event, load_event
from federation.events.ids import EventId, ServerName, StateKey
from federation.events.room_versions import room_version
from tests.federation.graph.auth_oracle import Told, selection, told

USERS = ("@a:x", "@b:x", "@c:y", "@d:z", "@:y")
ODD_USERS: tuple[str, ...] = (
    "@e:z",
    "@A b:y",
    "@long" + "g" * 248 + ":z",
    "@long" + "g" * 249 + ":z",
    "@b",
    "@b:_",
)
ODD_USERS += ("b:x", "@b:[::1]:80", "@b:999.1.1.1", "@b:1.1.1.1", "@b:x:", "@\0:x", "")
SERVERS = ("x", "y", "z")
MEMBERSHIPS = ("join", "invite", "leave", "ban", "knock")
JOIN_RULES = ("public", "invite", "knock", "restricted", "knock_restricted", "private", 5)
LEVELS = (-1, 0, 1, 49, 50, 51, 100, 101, 2**53 - 1)
NAMED = ("users_default", "events_default", "state_default", "ban", "redact", "kick", "invite")
TYPES = ("m.room.topic", "m.room.power_levels", "m.room.redaction", "m.room.aliases", "m.x")
TOKENS = ("t1", "t2")
AUTHORISER = "join_authorised_via_users_server"
ODD_VALUES: tuple[Any, ...] = (None, 5, "", [], {}, True, "join", "@a:x", ["@a:x"], {"a": 1})
IDENTITY = tuple(nacl.signing.SigningKey(bytes([seed]) * 32) for seed in (3, 4))
"""The public key of the first has a character that the two alphabets of Base64 differ in."""


@dataclass(frozen=True)
class Question:
    """An event and a state, as values of `federation` and as told to the oracle."""

    event: Event
    state: Mapping[StateKey, Event]
    told_event: Told
    told_state: Mapping[StateKey, Told]
    signed_by: frozenset[ServerName] | None
    """Servers whose signatures were verified; None: not looked at."""


@cache
def signed_invite(mxid: str, token: str, identity: int) -> Mapping[str, Any]:
    """Returns what an identity server signs for a third-party invite."""
    payload = {"mxid": mxid, "token": token}
    made = IDENTITY[identity].sign(canonicaljson.encode_canonical_json(payload)).signature
    text = base64.b64encode(made).decode().rstrip("=")
    return {**payload, "signatures": {"i": {"ed25519:0": text}}}


def public_key(identity: int, *, url_safe: bool) -> str:
    """Returns an identity server's key, in one of the two alphabets."""
    encode = base64.urlsafe_b64encode if url_safe else base64.b64encode
    return encode(bytes(IDENTITY[identity].verify_key)).decode().rstrip("=")


class Chooser:
    """Draws values; one for each seed."""

    def __init__(self, version: str, seed: int) -> None:
        self.random = random.Random(f"{version}/{seed}")
        self.version = version
        self.number = int(version)
        self.count = 0

    def pick(self, *choices: Any) -> Any:
        """Returns one of some values."""
        return self.random.choice(choices)

    def chance(self, of: float) -> bool:
        """True so often."""
        return self.random.random() < of

    def user(self) -> str:
        """Mostly a user of the room."""
        found: str = self.pick(*ODD_USERS) if self.chance(0.04) else self.pick(*USERS)
        return found

    def level(self, near: float | None = None) -> Any:
        """Returns a level in some form that the version may or may not read."""
        value = self.pick(*LEVELS)
        if near is not None and near not in (float("inf"), float("-inf")) and self.chance(0.6):
            value = int(near) + self.pick(-1, 0, 1)
        if self.chance(0.75 if self.number < 10 else 0.97):
            return value
        forms: list[Any] = [
            str(value),
            f" {value:+06d}\t",
            f"{value}.0",
            True,
            None,
            "x",
            "+-5",
            [],
        ]
        if self.number < 6:
            forms += [value + 0.75, float(value), -0.5]
        return self.pick(*forms)

    def event_id(self, server: str) -> str:
        """Returns a new event ID of the version's form."""
        self.count += 1
        if self.number <= 2:
            return f"$e{self.count}:{server}"
        return "$" + str(self.count).rjust(43, "e")

    def edge(self, event_id: str) -> Any:
        """Returns an entry of `prev_events`."""
        return [event_id, {"sha256": "AA"}] if self.number <= 2 else event_id


class Drawing(Chooser):
    """A state, and an event to check against it."""

    def __init__(self, version: str, seed: int) -> None:
        super().__init__(version, seed)
        self.state: dict[StateKey, tuple[str, dict[str, Any]]] = {}
        self.create_id = self.event_id("x")
        self.room_id = "!" + self.create_id[1:] if self.number >= 12 else "!r:x"
        self.put("m.room.create", "", "@a:x", self.create_content(), event_id=self.create_id)
        for user in USERS:
            if self.chance(0.85):
                membership = "join" if self.chance(0.6) else self.pick(*MEMBERSHIPS)
                self.put("m.room.member", user, user, {"membership": membership})
        if self.chance(0.85):
            rule = self.pick("public", "invite") if self.chance(0.2) else self.pick(*JOIN_RULES)
            self.put("m.room.join_rules", "", "@a:x", {"join_rule": rule})
        if self.chance(0.75):
            self.put("m.room.power_levels", "", "@a:x", self.levels_content())
        for token in TOKENS:
            if self.chance(0.7):
                self.put("m.room.third_party_invite", token, self.user(), self.keys_content())
        if self.chance(0.01):
            del self.state["m.room.create", ""]

    def pdu(
        self, kind: str, sender: str, content: Any, *, state_key: str | None, event_id: str
    ) -> dict[str, Any]:
        """Returns an event's JSON, of this room."""
        pdu: dict[str, Any] = {"type": kind, "sender": sender, "content": content}
        pdu |= {"prev_events": [], "auth_events": [], "depth": 1, "origin_server_ts": 1}
        if kind != "m.room.create" or self.number < 12:
            pdu["room_id"] = self.room_id
        if state_key is not None:
            pdu["state_key"] = state_key
        if self.number <= 2:
            pdu["event_id"] = event_id
        return pdu

    def put(
        self, kind: str, state_key: str, sender: str, content: Any, *, event_id: str = ""
    ) -> None:
        """An entry of the state."""
        event_id = event_id or self.event_id("x")
        pdu = self.pdu(kind, sender, content, state_key=state_key, event_id=event_id)
        self.state[kind, state_key] = (event_id, pdu)

    # --- contents ---

    def create_content(self) -> dict[str, Any]:
        content: dict[str, Any] = {"room_version": self.version}
        if self.number <= 10:
            content["creator"] = self.pick("@a:x", "@a:x", "@b:x", "@c:y")
        if self.chance(0.25):
            content["m.federate"] = self.pick(False, True, "false", None)
        if self.chance(0.5):
            content["additional_creators"] = self.pick([], ["@b:x"], ["@c:y", "@d:z"])
        return content

    def levels_content(self) -> dict[str, Any]:
        users = {user: self.level() for user in USERS if self.chance(0.6)}
        content: dict[str, Any] = {"users": users}
        for name in NAMED:
            if self.chance(0.4):
                content[name] = self.level()
        for name in ("events", "notifications"):
            if self.chance(0.6):
                content[name] = {kind: self.level() for kind in TYPES if self.chance(0.5)}
        return content

    def keys_content(self) -> dict[str, Any]:
        keys = [
            {"public_key": public_key(self.pick(0, 1), url_safe=self.chance(0.5))}
            for _ in range(self.random.randrange(3))
        ]
        content: dict[str, Any] = {}
        if self.chance(0.7):
            content["public_key"] = public_key(self.pick(0, 1), url_safe=self.chance(0.5))
        if self.chance(0.5):
            content["public_keys"] = [*keys, *self.random.sample(ODD_VALUES, 1)]
        return content

    def my_level(self, sender: str) -> float:
        """Returns what the sender seems to have; only to aim by."""
        found = self.state.get(("m.room.power_levels", ""))
        users = {} if found is None else found[1]["content"]["users"]
        level = users.get(sender)
        return level if isinstance(level, int) else 0

    # --- events ---

    def draw(self) -> tuple[str, dict[str, Any]]:
        """Returns an event: its ID and JSON."""
        sender = self.user()
        event_id = self.event_id(sender.rpartition(":")[2] or "x")
        kind = self.random.choices(("create", "member", "levels", "other"), (1, 8, 6, 4))[0]
        pdu: dict[str, Any] = getattr(self, f"draw_{kind}")(sender, event_id)
        # Who can't be a sender doesn't get as far as the rules.
        if pdu["sender"] in ODD_USERS[3:]:
            pdu["sender"] = "@c:y"
        if self.chance(0.03):
            pdu["room_id"] = "!" + "o" * 43 if self.number >= 12 else "!other:y"
        return event_id, pdu

    def edges(self) -> list[Any]:
        """`prev_events`: the create event alone, another, several."""
        create, other = self.edge(self.create_id), self.edge("$other:x")
        edges: list[Any] = self.pick([create], [other], [create, other], [other, other])
        return edges

    def draw_create(self, sender: str, event_id: str) -> dict[str, Any]:
        content = self.create_content()
        if self.chance(0.3):
            content["room_version"] = self.pick("1", "12", "13", "", 12, None)
        if self.chance(0.3):
            content.pop("creator", None)
        if self.chance(0.3):
            some = [self.user() for _ in range(2)]
            content["additional_creators"] = self.pick([5], some, *ODD_USERS, *ODD_VALUES)
        if self.chance(0.3):
            del content["room_version"]
        pdu = self.pdu("m.room.create", sender, content, state_key="", event_id=event_id)
        if self.chance(0.2):
            pdu["prev_events"] = self.edges()
        return pdu

    def draw_member(self, sender: str, event_id: str) -> dict[str, Any]:
        target = sender if self.chance(0.5) else self.user()
        membership = self.pick(*MEMBERSHIPS)
        content: dict[str, Any] = {"membership": membership}
        if self.chance(0.04):
            content = self.pick({}, {"membership": self.pick(*ODD_VALUES)})
        if membership == "join" and self.chance(0.5):
            content[AUTHORISER] = self.pick(*ODD_VALUES) if self.chance(0.1) else self.user()
        if membership == "invite" and self.chance(0.6):
            content["third_party_invite"] = self.third_party(target)
            sender = self.sender_of_token(content["third_party_invite"]) or sender
        state_key = None if self.chance(0.03) else target
        pdu = self.pdu("m.room.member", sender, content, state_key=state_key, event_id=event_id)
        pdu["prev_events"] = self.edges()
        return pdu

    def third_party(self, target: str) -> Any:
        if self.chance(0.05):
            return self.pick({"signed": self.pick(*ODD_VALUES)}, *ODD_VALUES)
        mxid = target if self.chance(0.9) else self.user()
        token = self.pick(*TOKENS) if self.chance(0.95) else "unknown"
        signed: dict[str, Any] = {**signed_invite(mxid, token, self.pick(0, 1))}
        if self.chance(0.1):
            signed[self.pick("mxid", "token", "signatures", "unsigned", "more")] = self.pick(
                *ODD_VALUES
            )
        if self.chance(0.05):
            signed.pop(self.pick("mxid", "token", "signatures"), None)
        return {"signed": signed}

    def sender_of_token(self, invite: Any) -> str | None:
        """Mostly the sender of the third-party invite sends the invite that follows from it."""
        signed = invite.get("signed") if isinstance(invite, dict) else None
        token = signed.get("token") if isinstance(signed, dict) else None
        known = isinstance(token, str) and ("m.room.third_party_invite", token) in self.state
        if not known or self.chance(0.15):
            return None
        sender: str = self.state["m.room.third_party_invite", str(token)][1]["sender"]
        return sender

    def draw_levels(self, sender: str, event_id: str) -> dict[str, Any]:
        found = self.state.get(("m.room.power_levels", ""))
        content = (
            self.levels_content() if found is None or self.chance(0.1) else found[1]["content"]
        )
        content = json.loads(json.dumps(content))
        if self.chance(0.7):
            for users in [content["users"]]:  # what would be refused at once, whatever follows
                for user in [user for user, value in users.items() if not isinstance(value, int)]:
                    users[user] = 0
        near = self.my_level(sender)
        for _ in range(self.random.randrange(4)):
            self.change(content, sender, near)
        return self.pdu("m.room.power_levels", sender, content, state_key="", event_id=event_id)

    def change(self, content: dict[str, Any], sender: str, near: float) -> None:
        """One change of power levels, around the sender's own level."""
        where = self.pick(content, "events", "notifications", "users", "users")
        names: tuple[str, ...] = NAMED
        if isinstance(where, str):
            names = TYPES if where != "users" else (*USERS, sender, self.user())
            if self.chance(0.03):
                content[where] = self.pick(*ODD_VALUES)
            held = content.setdefault(where, {})
            where = held if isinstance(held, dict) else {}
        if self.chance(0.3):
            where.pop(self.pick(*names), None)
        else:
            where[self.pick(*names)] = self.level(near)

    def draw_other(self, sender: str, event_id: str) -> dict[str, Any]:
        kind = self.pick(*TYPES, "m.room.third_party_invite", "m.room.redaction", "m.room.aliases")
        state_key = self.pick(None, "", *USERS, *SERVERS, "@", "x@a:x")
        if kind == "m.room.power_levels":
            kind = "m.room.name"
        pdu = self.pdu(kind, sender, {}, state_key=state_key, event_id=event_id)
        if kind == "m.room.redaction":
            pdu["redacts"] = self.pick("$e1:x", "$e1:y", "$e1", "$e1:z:y", "")
        return pdu


def question(version: str, seed: int) -> Question:
    """Returns the question of a seed."""
    drawing = Drawing(version, seed)
    event_id, pdu = drawing.draw()
    verified = (
        frozenset(map(ServerName, drawing.random.sample(SERVERS, 2)))
        if drawing.chance(0.5)
        else None
    )
    row = room_version(version)
    state = {key: (text, encode(one)) for key, (text, one) in drawing.state.items()}
    raw = encode(pdu)
    return Question(
        load_event(raw, row, EventId(event_id)),
        {key: load_event(data, row, EventId(text)) for key, (text, data) in state.items()},
        told(event_id, raw),
        {key: told(text, data) for key, (text, data) in state.items()},
        verified,
    )


@dataclass(frozen=True)
class Citation:
    """An event with the auth events that it cites, and who of them was rejected."""

    event: Event
    cited: tuple[Event, ...]
    told_event: Told
    told_cited: tuple[Told, ...]
    rejected: frozenset[EventId]


def citation(version: str, seed: int) -> Citation:
    """Returns the citation of a seed: about what the selection gives, with something wrong now and
    then."""
    drawing = Drawing(version, seed)
    event_id, pdu = drawing.draw()
    row = room_version(version)
    wanted = selection(Told(event_id, pdu), int(version))
    chosen = [drawing.state[key] for key in sorted(wanted) if key in drawing.state]
    if chosen and drawing.chance(0.2):
        chosen.pop(drawing.random.randrange(len(chosen)))
    if drawing.chance(0.2):
        chosen.append(drawing.pick(*drawing.state.values(), *chosen))
    if drawing.chance(0.1):
        chosen.append(other_levels(drawing))
    drawing.random.shuffle(chosen)
    pdu["auth_events"] = [drawing.edge(text) for text, _ in chosen]
    raw = encode(pdu)
    loaded = tuple(load_event(encode(one), row, EventId(text)) for text, one in chosen)
    suspects = [drawing.create_id, "$other:x", *(text for text, _ in chosen)]
    rejected = {EventId(drawing.pick(*suspects))} if drawing.chance(0.3) else set()
    return Citation(
        load_event(raw, row, EventId(event_id)),
        loaded,
        told(event_id, raw),
        tuple(told(text, encode(one)) for text, one in chosen),
        frozenset(rejected),
    )


def other_levels(drawing: Drawing) -> tuple[str, dict[str, Any]]:
    """Power levels that aren't the state's: of this room or another, or no state event."""
    event_id = drawing.event_id("x")
    state_key = drawing.pick("", "", "", None, "x")
    pdu = drawing.pdu(
        "m.room.power_levels", "@a:x", {"users": {}}, state_key=state_key, event_id=event_id
    )
    if drawing.chance(0.5):
        pdu["room_id"] = "!" + "p" * 43 if drawing.number >= 12 else "!p:y"
    return event_id, pdu


def encode(pdu: Mapping[str, Any]) -> bytes:
    """JSON as it is stored."""
    return json.dumps(pdu, ensure_ascii=False).encode()
