"""For each authorisation rule the cases that it decides: an event that it refuses, and one that
differs in what the rule asks for and is allowed.

Rules:
1. `PAIRS` has the rules in the order of the pages. Its functions build a room of any version; a
   version without the rule has no such case (`rule_numbers.number_of` says None).
2. `PAGES` has the numbers of all places on a version's page where something is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from federation.events.event import Event, load_event
from federation.events.ids import EventId, RoomId, ServerName, StateKey, UserId
from federation.events.signing import SigningKey, sign_json
from federation.graph.auth.auth_failures import AuthRule as R
from federation.graph.building import EventDraft
from tests.federation.graph.room_builder import ALICE, BOB, CAROL, DAVE, EVE, Room, event_of

CREATE: StateKey = ("m.room.create", "")
LEVELS: StateKey = ("m.room.power_levels", "")
RULES: StateKey = ("m.room.join_rules", "")
AUTHORISER = "join_authorised_via_users_server"
IDENTITY = SigningKey.generate(b"\5" * 32, "0")
STRANGER = SigningKey.generate(b"\6" * 32, "0")


@dataclass(frozen=True)
class Asked:
    """An event, with the state or (if given) the auth events that it is checked against."""

    event: Event
    state: Mapping[StateKey, Event]
    signed_by: frozenset[ServerName] | None = None
    cited: tuple[Event, ...] | None = None
    rejected: frozenset[EventId] = frozenset()


Pair = tuple[Asked, Asked]
"""A case that the rule refuses, and one that it doesn't."""


class Scene:
    """A room in which Alice made all (level 100, or a creator's), Carol has 50, Bob 0, Dave is
    banned and Eve was never there."""

    def __init__(self, name: str, **create: Any) -> None:
        self.room = room = Room(name, create=create).open_to(BOB, CAROL, DAVE)
        self.levels(ALICE)
        room.member(ALICE, "ban", DAVE)

    def levels(self, sender: UserId, *, keep: bool = True, **content: Any) -> Asked:
        """Power levels; `users` and `events` are added to what is always there."""
        users: dict[str, Any] = {
            CAROL: 50,
            **({} if self.room.version.creators_are_privileged else {ALICE: 100}),
        }
        users = merged(users, content.pop("users", {}))
        events = merged({"m.room.power_levels": 50}, content.pop("events", {}))
        if "notifications" in content:
            content["notifications"] = merged({}, content["notifications"])
        given = {"users": users, "events": events, **content}
        return self.ask(self.room.send("m.room.power_levels", sender, given, "", keep=keep))

    def ask(self, event: Event, *changes: Event, **options: Any) -> Asked:
        """Returns the event against the room's state, with some entries replaced."""
        state = {**self.room.state, **{one.key: one for one in changes}}
        return Asked(event, state, **options)

    def member(self, sender: UserId, membership: str, target: str = "", **extra: Any) -> Event:
        """Returns a member event beside the room."""
        return self.room.member(sender, membership, target or sender, extra=extra, keep=False)

    def send(
        self, kind: str, sender: UserId, state_key: str | None = None, **content: Any
    ) -> Event:
        """Another event beside the room."""
        return self.room.send(kind, sender, content, state_key, keep=False)

    def rule(self, rule: str) -> Event:
        """Returns a join rule beside the room."""
        return self.room.join_rule(ALICE, rule, keep=False)


def merged(given: dict[str, Any], changes: Any) -> Any:
    """Returns a map with changes; None removes. What is not a map takes its place."""
    if not isinstance(changes, dict):
        return changes
    return {key: value for key, value in {**given, **changes}.items() if value is not None}


# --- 1: the create event ---


def created(name: str, room_id: str = "!r:a", prev: Any = (), **content: Any) -> Asked:
    """Returns a create event by Alice."""
    version = Room(name).version
    if version.creator_in_content:
        content.setdefault("creator", ALICE)
    content = {key: value for key, value in content.items() if value != "none"}
    draft = EventDraft("m.room.create", ALICE, content, "")
    room = None if version.room_id_is_create_hash else RoomId(room_id)
    return Asked(event_of(version, room, draft, prev=prev), {})


def create_pairs(name: str, rule: R) -> Iterator[Pair]:
    allowed = created(name)
    if rule is R.CREATE_HAS_PREV_EVENTS:
        yield created(name, prev=[Room(name).create]), allowed
    if rule is R.CREATE_HAS_ROOM_ID:
        event = allowed.event
        raw = event.raw.replace(b'"sender"', b'"room_id":"!r:a","sender"')
        yield Asked(load_event(raw, event.version, event.event_id), {}), allowed
    if rule is R.CREATE_OF_OTHER_DOMAIN:
        yield created(name, "!r:b"), allowed
    if rule is R.CREATE_VERSION_UNKNOWN:
        yield created(name, room_version="13"), created(name, room_version="1")
    if rule is R.CREATE_WITHOUT_CREATOR:
        yield created(name, creator="none"), allowed
    if rule is R.CREATE_ADDITIONAL_CREATORS:
        for odd in (BOB, [5], ["bob"]):
            yield created(name, additional_creators=odd), created(name, additional_creators=[BOB])


# --- 2 of versions 1 to 11; 2 and 3 of version 12: the event's own auth events ---


def citation_pairs(name: str, rule: R) -> Iterator[Pair]:
    scene = Scene(name)
    room = scene.room
    own = room.state["m.room.member", BOB]
    message = scene.send("m.room.message", BOB)
    cited = tuple(room.events[event_id] for event_id in message.auth_events)

    def citing(*events: Event, rejected: Event | None = None) -> Asked:
        event = room.send("m.room.message", BOB, {}, auth=events, keep=False)
        bad = frozenset() if rejected is None else frozenset({rejected.event_id})
        return Asked(event, room.state, cited=events, rejected=bad)

    allowed = citing(*cited)
    if rule is R.ROOM_ID_NOT_OF_CREATE:
        if room.version.room_id_is_create_hash:
            yield citing(*cited, rejected=room.create), allowed
        other = other_room(name).send("m.room.message", ALICE, {}, keep=False)
        yield scene.ask(other), scene.ask(message)
    if rule is R.AUTH_EVENTS_DUPLICATE:
        yield citing(*cited, own), allowed
    if rule is R.AUTH_EVENTS_UNEXPECTED:
        yield citing(*cited, room.state[RULES]), allowed
        yield citing(*cited, message), allowed
    if rule is R.AUTH_EVENT_REJECTED:
        yield citing(*cited, rejected=own), citing(*cited, rejected=room.state[RULES])
    if rule is R.AUTH_EVENTS_WITHOUT_CREATE:
        yield citing(own), citing(own, room.create)
    if rule is R.STATE_WITHOUT_CREATE:
        state = {key: event for key, event in room.state.items() if key != CREATE}
        yield Asked(message, state), scene.ask(message)
    if rule is R.AUTH_EVENT_OF_OTHER_ROOM:
        foreign = other_room(name).levels(ALICE, {})
        rest = [event for event in cited if event.key != LEVELS]
        yield citing(*rest, foreign), allowed


def other_room(name: str) -> Room:
    """Another room of Alice's."""
    room = Room(name, create={"x": 1})
    if not room.version.room_id_is_create_hash:
        room.room_id = RoomId("!other:a")
    return room


# --- 3 and 4 of version 1: federation, aliases ---


def server_pairs(name: str, rule: R) -> Iterator[Pair]:
    if rule is R.NOT_FEDERATED:
        closed, opened = Scene(name, **{"m.federate": False}), Scene(name, **{"m.federate": True})
        yield closed.ask(closed.send("m.x", BOB)), opened.ask(opened.send("m.x", BOB))
        yield closed.ask(closed.member(EVE, "join")), closed.ask(closed.send("m.x", ALICE))
    if rule is R.ALIASES_OF_OTHER_SERVER:
        scene = Scene(name)
        allowed = scene.ask(scene.send("m.room.aliases", BOB, "b"))
        yield scene.ask(scene.send("m.room.aliases", BOB, "a")), allowed
        yield scene.ask(scene.send("m.room.aliases", BOB)), allowed


# --- 5 of version 1: members ---


def member_pairs(name: str, rule: R) -> Iterator[Pair]:
    scene = Scene(name)
    join = scene.ask(scene.member(EVE, "join"))
    if rule is R.MEMBER_MALFORMED:
        yield scene.ask(scene.send("m.room.member", EVE, membership="join")), join
        yield scene.ask(scene.send("m.room.member", EVE, EVE)), join
    if rule is R.JOIN_UNSIGNED_BY_AUTHORISER:
        event = scene.member(EVE, "join", **{AUTHORISER: CAROL})
        signed = scene.ask(event, signed_by=frozenset({ServerName("c"), ServerName("e")}))
        yield scene.ask(event, signed_by=frozenset({ServerName("e")})), signed
        yield scene.ask(scene.member(EVE, "join", **{AUTHORISER: "c"})), signed
    if rule is R.MEMBERSHIP_UNKNOWN:
        yield scene.ask(scene.send("m.room.member", EVE, EVE, membership="x")), join
        yield scene.ask(scene.send("m.room.member", EVE, EVE, membership=None)), join


def join_pairs(name: str, rule: R) -> Iterator[Pair]:
    scene = Scene(name)
    version = scene.room.version
    join = scene.member(EVE, "join")
    if rule is R.JOIN_OF_OTHER_USER:
        yield scene.ask(scene.member(ALICE, "join", EVE)), scene.ask(join)
        start = Room(name)
        first, theirs = (start.member(user, "join", ALICE, keep=False) for user in (ALICE, BOB))
        later = start.member(BOB, "join", ALICE, prev=[start.create, first], keep=False)
        yield Asked(later, start.state), Asked(theirs, start.state)
    if rule is R.JOIN_WHILE_BANNED:
        unbanned = scene.member(ALICE, "leave", DAVE)
        event = scene.member(DAVE, "join")
        yield scene.ask(event), scene.ask(event, unbanned)
    if rule is R.JOIN_WITHOUT_INVITE:
        invited = scene.member(ALICE, "invite", EVE)
        for text in ("invite", "knock") if version.knock else ("invite",):
            yield scene.ask(join, scene.rule(text)), scene.ask(join, scene.rule(text), invited)
    if rule is R.JOIN_NOT_AUTHORISED:
        yield from restricted_pairs(scene)
    if rule is R.JOIN_RULE_FORBIDS:
        yield scene.ask(join, scene.rule("private")), scene.ask(join, scene.rule("public"))


def restricted_pairs(scene: Scene) -> Iterator[Pair]:
    scene.levels(ALICE, invite=50)
    some = ("restricted", "knock_restricted")
    for text in some if scene.room.version.knock_restricted else some[:1]:
        rule = scene.rule(text)
        allowed = scene.ask(scene.member(EVE, "join", **{AUTHORISER: CAROL}), rule)
        for odd in (BOB, DAVE):
            yield scene.ask(scene.member(EVE, "join", **{AUTHORISER: odd}), rule), allowed
        invited = scene.member(ALICE, "invite", EVE)
        unauthorised = scene.member(EVE, "join")
        yield scene.ask(unauthorised, rule), scene.ask(unauthorised, rule, invited)


def third_party_pairs(name: str, rule: R) -> Iterator[Pair]:
    scene = Scene(name)
    content = {"public_key": IDENTITY.verify_key.encoded}
    scene.room.send("m.room.third_party_invite", ALICE, content, "t")
    signed = sign_json({"mxid": EVE, "token": "t"}, "i", IDENTITY)

    def invite(given: Any, *changes: Event, sender: UserId = ALICE) -> Asked:
        event = scene.member(sender, "invite", EVE, third_party_invite=given)
        return scene.ask(event, *changes)

    allowed = invite({"signed": signed})
    if rule is R.THIRD_PARTY_INVITE_TARGET_BANNED:
        yield invite({"signed": signed}, scene.member(ALICE, "ban", EVE)), allowed
    if rule is R.THIRD_PARTY_INVITE_WITHOUT_SIGNED:
        yield invite({}), allowed
        yield invite({"signed": 5}), allowed
    if rule is R.THIRD_PARTY_INVITE_MALFORMED:
        for missing in ("mxid", "token"):
            part = {key: value for key, value in signed.items() if key != missing}
            yield invite({"signed": part}), allowed
    if rule is R.THIRD_PARTY_INVITE_OTHER_USER:
        yield invite({"signed": {**signed, "mxid": BOB}}), allowed
    if rule is R.THIRD_PARTY_INVITE_UNKNOWN:
        yield invite({"signed": {**signed, "token": "u"}}), allowed
    if rule is R.THIRD_PARTY_INVITE_OTHER_SENDER:
        yield invite({"signed": signed}, sender=CAROL), allowed
    if rule is R.THIRD_PARTY_INVITE_UNSIGNED:
        yield invite({"signed": sign_json(signed, "i", STRANGER)}), allowed


def invite_pairs(name: str, rule: R) -> Iterator[Pair]:
    scene = Scene(name)
    invite = scene.member(BOB, "invite", EVE)
    allowed = scene.ask(invite)
    if rule is R.INVITE_BY_NON_MEMBER:
        yield scene.ask(invite, scene.member(BOB, "leave")), allowed
    if rule is R.INVITE_OF_MEMBER_OR_BANNED:
        yield scene.ask(scene.member(BOB, "invite", DAVE)), allowed
        yield scene.ask(scene.member(BOB, "invite", CAROL)), allowed
    if rule is R.INVITE_LEVEL:
        scene.levels(ALICE, invite=1)
        yield scene.ask(invite), scene.ask(scene.member(CAROL, "invite", EVE))


def leave_pairs(name: str, rule: R) -> Iterator[Pair]:
    scene = Scene(name)
    leave, kick = scene.member(EVE, "leave"), scene.member(CAROL, "leave", BOB)
    if rule is R.LEAVE_WITHOUT_MEMBERSHIP:
        yield scene.ask(leave), scene.ask(leave, scene.member(EVE, "join"))
        yield scene.ask(scene.member(DAVE, "leave")), scene.ask(scene.member(BOB, "leave"))
        known = ["invite", "knock"] if scene.room.version.knock else ["invite"]
        for membership in known:
            yield scene.ask(leave), scene.ask(leave, scene.member(EVE, membership))
    if rule is R.KICK_BY_NON_MEMBER:
        yield scene.ask(kick, scene.member(CAROL, "leave")), scene.ask(kick)
    if rule is R.UNBAN_LEVEL:
        unban = scene.member(CAROL, "leave", DAVE)
        allowed = scene.ask(unban)
        scene.levels(ALICE, ban=51)
        yield scene.ask(unban), allowed
    if rule is R.KICK_LEVEL:
        yield scene.ask(scene.member(BOB, "leave", EVE)), scene.ask(kick)
        yield scene.ask(scene.member(CAROL, "leave", ALICE)), scene.ask(kick)


def ban_pairs(name: str, rule: R) -> Iterator[Pair]:
    scene = Scene(name)
    ban = scene.member(CAROL, "ban", EVE)
    if rule is R.BAN_BY_NON_MEMBER:
        yield scene.ask(ban, scene.member(CAROL, "leave")), scene.ask(ban)
    if rule is R.BAN_LEVEL:
        yield scene.ask(scene.member(BOB, "ban", EVE)), scene.ask(ban)
        yield scene.ask(scene.member(CAROL, "ban", ALICE)), scene.ask(ban)


def knock_pairs(name: str, rule: R) -> Iterator[Pair]:
    scene = Scene(name)
    knock, allowing = scene.member(EVE, "knock"), scene.rule("knock")
    allowed = scene.ask(knock, allowing)
    if rule is R.KNOCK_RULE:
        yield scene.ask(knock, scene.rule("public")), allowed
        if scene.room.version.knock_restricted:
            yield (
                scene.ask(knock, scene.rule("restricted")),
                scene.ask(knock, scene.rule("knock_restricted")),
            )
    if rule is R.KNOCK_OF_OTHER_USER:
        yield scene.ask(scene.member(BOB, "knock", EVE), allowing), allowed
    if rule is R.KNOCK_BY_MEMBER:
        for membership in ("ban", "invite", "join"):
            yield scene.ask(knock, allowing, scene.member(ALICE, membership, EVE)), allowed


# --- 6 to 9 and 11 of version 1 ---


def sender_pairs(name: str, rule: R) -> Iterator[Pair]:
    scene = Scene(name)
    if rule is R.SENDER_NOT_JOINED:
        yield scene.ask(scene.send("m.x", EVE)), scene.ask(scene.send("m.x", BOB))
    if rule is R.THIRD_PARTY_INVITE_LEVEL:
        scene.levels(ALICE, invite=50)
        low, enough = (scene.send("m.room.third_party_invite", who, "t") for who in (BOB, CAROL))
        yield scene.ask(low), scene.ask(enough)
    if rule is R.LEVEL_TOO_LOW:
        topic = scene.send("m.room.topic", BOB, "")
        yield scene.ask(topic), scene.ask(scene.send("m.room.topic", CAROL, ""))
        yield scene.ask(topic), scene.ask(scene.send("m.room.topic", BOB))
        scene.levels(ALICE, events={"m.x": 51})
        yield scene.ask(scene.send("m.x", CAROL)), scene.ask(scene.send("m.x", ALICE))
    if rule is R.STATE_KEY_OF_OTHER_USER:
        yield scene.ask(scene.send("m.x", CAROL, BOB)), scene.ask(scene.send("m.x", CAROL, CAROL))
    if rule is R.REDACTION_LEVEL:
        refused, own = (redaction(scene.room, BOB, redacts) for redacts in ("$x:a", "$x:b"))
        yield scene.ask(refused), scene.ask(own)
        yield scene.ask(refused), scene.ask(redaction(scene.room, CAROL, "$x:a"))


def redaction(room: Room, sender: UserId, redacts: str) -> Event:
    """Returns a redaction beside the room."""
    draft = EventDraft("m.room.redaction", sender, {}, redacts=EventId(redacts))
    auth = room.auth_for(draft, room.state)
    return event_of(room.version, room.room_id, draft, prev=[room.last], auth=auth)


# --- 10 of version 1: power levels ---


def form_pairs(name: str, rule: R) -> Iterator[Pair]:
    scene = Scene(name)

    def change(**content: Any) -> Asked:
        return scene.levels(CAROL, keep=False, **content)

    if rule is R.POWER_LEVEL_WITHOUT_STATE_KEY:
        allowed = change()
        content = allowed.event.content
        yield scene.ask(scene.send("m.room.power_levels", CAROL, **content)), allowed
    if rule is R.POWER_LEVEL_UNREADABLE:
        yield change(ban="x"), change(ban=50)
        yield change(events={"x": "1.5"}), change(events={"x": 1})
    if rule is R.POWER_LEVEL_NOT_INTEGER:
        yield change(ban="50"), change(ban=50)
    if rule is R.POWER_LEVEL_MAP_MALFORMED:
        for field in ("events", "notifications"):
            yield change(**{field: []}), change(**{field: {"x": 5}})
            yield change(**{field: {"x": "5"}}), change(**{field: {"x": 5}})
    if rule is R.POWER_LEVEL_USERS_MALFORMED:
        odds: list[Any] = [[], {BOB: "five"}, {"bob": 5}]
        for odd in odds:
            yield change(users=odd), change(users={BOB: 5})
    if rule is R.POWER_LEVEL_OF_CREATOR:
        both = Scene(name, additional_creators=[EVE])
        for creator in (ALICE, EVE):
            yield both.levels(CAROL, keep=False, users={creator: 5}), change(users={BOB: 5})


def change_pairs(name: str, rule: R) -> Iterator[Pair]:
    scene = Scene(name)
    scene.levels(ALICE, ban=51, kick=50, events={"y": 51}, notifications={"y": 51}, users={BOB: 49})
    base: dict[str, Any] = {"ban": 51, "kick": 50, "events": {"y": 51}}
    base |= {"notifications": {"y": 51}, "users": {BOB: 49}}

    def change(**content: Any) -> Asked:
        return scene.levels(CAROL, keep=False, **{**base, **content})

    if rule is R.POWER_LEVEL_CHANGE_TOO_HIGH:
        yield change(ban=50), change(kick=49)
        yield change(kick=51), change(kick=50)
        yield change(redact=51), change(redact=50)
    if rule is R.POWER_LEVEL_MAP_CHANGE_TOO_HIGH:
        guarded = scene.room.version.notification_levels_guarded
        for field in ("events", "notifications") if guarded else ("events",):
            yield change(**{field: {"y": 50}}), change()
            yield change(**{field: {"y": None}}), change()
            yield change(**{field: {"y": 51, "x": 51}}), change(**{field: {"y": 51, "x": 50}})
    if rule is R.POWER_LEVEL_OF_EQUAL:
        scene.levels(ALICE, **{**base, "users": {BOB: 49, EVE: 50}})
        kept = {BOB: 49, EVE: 50}
        for level in (49, None):
            yield change(users={**kept, EVE: level}), change(users={**kept, BOB: level})
        yield change(users={**kept, EVE: 49}), change(users={**kept, CAROL: 1})
    if rule is R.POWER_LEVEL_USER_TOO_HIGH:
        for user in (BOB, EVE, CAROL):
            yield change(users={BOB: 49, user: 51}), change(users={BOB: 49, user: 50})


Builder = Callable[[str, R], Iterator[Pair]]

BUILDERS: Final[Mapping[Builder, tuple[R, ...]]] = {
    create_pairs: (
        R.CREATE_HAS_PREV_EVENTS,
        R.CREATE_HAS_ROOM_ID,
        R.CREATE_OF_OTHER_DOMAIN,
        R.CREATE_VERSION_UNKNOWN,
        R.CREATE_WITHOUT_CREATOR,
        R.CREATE_ADDITIONAL_CREATORS,
    ),
    citation_pairs: (
        R.ROOM_ID_NOT_OF_CREATE,
        R.AUTH_EVENTS_DUPLICATE,
        R.AUTH_EVENTS_UNEXPECTED,
        R.AUTH_EVENT_REJECTED,
        R.AUTH_EVENTS_WITHOUT_CREATE,
        R.STATE_WITHOUT_CREATE,
        R.AUTH_EVENT_OF_OTHER_ROOM,
    ),
    server_pairs: (R.NOT_FEDERATED, R.ALIASES_OF_OTHER_SERVER),
    member_pairs: (R.MEMBER_MALFORMED, R.JOIN_UNSIGNED_BY_AUTHORISER, R.MEMBERSHIP_UNKNOWN),
    join_pairs: (
        R.JOIN_OF_OTHER_USER,
        R.JOIN_WHILE_BANNED,
        R.JOIN_WITHOUT_INVITE,
        R.JOIN_NOT_AUTHORISED,
        R.JOIN_RULE_FORBIDS,
    ),
    third_party_pairs: (
        R.THIRD_PARTY_INVITE_TARGET_BANNED,
        R.THIRD_PARTY_INVITE_WITHOUT_SIGNED,
        R.THIRD_PARTY_INVITE_MALFORMED,
        R.THIRD_PARTY_INVITE_OTHER_USER,
        R.THIRD_PARTY_INVITE_UNKNOWN,
        R.THIRD_PARTY_INVITE_OTHER_SENDER,
        R.THIRD_PARTY_INVITE_UNSIGNED,
    ),
    invite_pairs: (R.INVITE_BY_NON_MEMBER, R.INVITE_OF_MEMBER_OR_BANNED, R.INVITE_LEVEL),
    leave_pairs: (R.LEAVE_WITHOUT_MEMBERSHIP, R.KICK_BY_NON_MEMBER, R.UNBAN_LEVEL, R.KICK_LEVEL),
    ban_pairs: (R.BAN_BY_NON_MEMBER, R.BAN_LEVEL),
    knock_pairs: (R.KNOCK_RULE, R.KNOCK_OF_OTHER_USER, R.KNOCK_BY_MEMBER),
    sender_pairs: (
        R.SENDER_NOT_JOINED,
        R.THIRD_PARTY_INVITE_LEVEL,
        R.LEVEL_TOO_LOW,
        R.STATE_KEY_OF_OTHER_USER,
        R.REDACTION_LEVEL,
    ),
    form_pairs: (
        R.POWER_LEVEL_WITHOUT_STATE_KEY,
        R.POWER_LEVEL_UNREADABLE,
        R.POWER_LEVEL_NOT_INTEGER,
        R.POWER_LEVEL_MAP_MALFORMED,
        R.POWER_LEVEL_USERS_MALFORMED,
        R.POWER_LEVEL_OF_CREATOR,
    ),
    change_pairs: (
        R.POWER_LEVEL_CHANGE_TOO_HIGH,
        R.POWER_LEVEL_MAP_CHANGE_TOO_HIGH,
        R.POWER_LEVEL_OF_EQUAL,
        R.POWER_LEVEL_USER_TOO_HIGH,
    ),
}
BY_WHAT_IS_DEPLOYED: Final = frozenset({R.POWER_LEVEL_WITHOUT_STATE_KEY, R.POWER_LEVEL_UNREADABLE})
"""Rules where the pages are silent."""
PAIRS: Final[Mapping[R, Builder]] = {
    rule: builder for builder, rules in BUILDERS.items() for rule in rules
}


def numbers(*groups: str) -> frozenset[str]:
    """Numbers from `5.3: 1 2.1`, which are 5.3.1 and 5.3.2.1."""
    found: set[str] = set()
    for group in groups:
        section, _, places = group.partition(":")
        found.update(f"{section}.{place}" if place else section for place in places.split() or [""])
    return frozenset(found)


def page_until_11(first: int, *own: str) -> frozenset[str]:
    """Returns what the pages of versions 1 to 11 share; `first` is the number of the rules on
    members."""
    later = (f"{first + 1}:", f"{first + 2}: 1", f"{first + 3}:", f"{first + 4}:")
    return numbers("2: 1 2 3 4 5", "3:", f"{first}: 1", *later, *own)


_THIRD_PARTY: Final = "1.1 1.2 1.3 1.4 1.5 1.6 1.8"
_CREATE_10: Final = "1: 1 2 3 4"


def _page_1(*own: str) -> frozenset[str]:
    members = ("5.2: 2 3 4 6", f"5.3: {_THIRD_PARTY} 2 3 5", "5.4: 1 2 3 5", "5.5: 1 3", "5.6:")
    levels = "10: 1 3.1 3.2 4.1 5.1 6.1 7.1"
    return page_until_11(5, _CREATE_10, "4: 1 2", *members, levels, *own)


_MEMBERS_6: Final = ("4.2: 2 3 4 6", f"4.3: {_THIRD_PARTY} 2 3 5", "4.4: 1 2 3 5", "4.5: 1 3")
_MEMBERS_8: Final = (
    "4.2: 1",
    "4.3: 2 3 4 5.2 7",
    f"4.4: {_THIRD_PARTY} 2 3 5",
    "4.5: 1 2 3 5",
    "4.6: 1 3",
    "4.7: 1 2 4",
    "4.8:",
)
_LEVELS_6: Final = "9: 1 3.1 3.2 4.1 5.1 6.1 7.1"
_LEVELS_10: Final = "9: 1 2 3 5.1 5.2 6.1 7.1 8.1 9.1"
_PAGE_8: Final = page_until_11(4, _CREATE_10, *_MEMBERS_8, _LEVELS_6)
_PAGE_12: Final = numbers(
    "1: 1 2 3 4",
    "2:",
    "3: 1 2 3 5",
    "4:",
    "5: 1 2.1 3.2 3.3 3.4 3.5.2 3.7",
    f"5.4: {_THIRD_PARTY} 2 3 5",
    "5: 5.1 5.2 5.3 5.5 6.1 6.3 7.1 7.2 7.4 8",
    "6:",
    "7: 1",
    "8:",
    "9:",
    "10: 1 2 3 4 6.1 6.2 7.1 8.1 9.1 10.1",
)
PAGES: Final[Mapping[str, frozenset[str]]] = {
    **dict.fromkeys(("1", "2"), _page_1("11: 3")),
    **dict.fromkeys(("3", "4", "5"), _page_1()),
    "6": page_until_11(4, _CREATE_10, *_MEMBERS_6, "4.6:", _LEVELS_6),
    "7": page_until_11(4, _CREATE_10, *_MEMBERS_6, "4.6: 1 2 4", "4.7:", _LEVELS_6),
    **dict.fromkeys(("8", "9"), _PAGE_8),
    "10": page_until_11(4, _CREATE_10, *_MEMBERS_8, _LEVELS_10),
    "11": page_until_11(4, "1: 1 2 3", *_MEMBERS_8, _LEVELS_10),
    "12": _PAGE_12,
}
"""By version, each place on its page where an event is refused. The rule on join rule `invite`
counts as one: who isn't invited falls from it to the last of its list."""
