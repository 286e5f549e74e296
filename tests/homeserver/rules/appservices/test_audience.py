"""Which rooms an application service is told of."""

from __future__ import annotations

from federation.events.ids import RoomAlias, RoomId, UserId
from homeserver.rules.appservices.audience import Audience
from tests.homeserver.rules.appservices.test_registrations import parsed

ROOM, OTHER = RoomId("!room:hs1"), RoomId("!other:hs1")
ANN, BEN, ALICE = (UserId(f"@{name}:hs1") for name in ("_irc_ann", "_irc_ben", "alice"))


def test_a_room_counts_as_long_as_one_of_its_users_is_in_it() -> None:
    audience = Audience(parsed(), [(ROOM, ANN), (ROOM, ALICE)])
    assert audience.has_room(ROOM)
    assert audience.users_in(ROOM) == {ANN}
    audience.apply(ROOM, BEN, "join")
    audience.apply(ROOM, ANN, "leave")
    assert audience.has_room(ROOM)
    audience.apply(ROOM, BEN, None)
    assert not audience.has_room(ROOM)
    assert list(audience.rooms) == []


def test_users_of_others_do_not_count() -> None:
    audience = Audience(parsed())
    for user_id in (ALICE, UserId("@_irc_ann:hs2"), UserId("nonsense")):
        audience.apply(ROOM, user_id, "join")
    assert not audience.has_room(ROOM)
    audience.apply(ROOM, ANN, "invite")
    assert not audience.has_room(ROOM)


def test_rooms_by_their_ids_and_aliases() -> None:
    audience = Audience(parsed())
    assert audience.has_room(RoomId("!watched:hs2"))
    assert not audience.has_users_in([RoomId("!watched:hs2")])
    aliases = [(ROOM, RoomAlias("#_irc_a:hs1")), (OTHER, RoomAlias("#b:hs1"))]
    audience.note_aliases([ROOM, OTHER], aliases)
    assert (audience.has_room(ROOM), audience.has_room(OTHER)) == (True, False)
    assert set(audience.rooms) == {ROOM}
    audience.note_aliases([OTHER], [])
    assert audience.has_room(ROOM)
    audience.note_aliases([ROOM], [])
    assert not audience.has_room(ROOM)


def test_its_users_in_several_rooms() -> None:
    audience = Audience(parsed(), [(ROOM, ANN)])
    assert audience.has_users_in([OTHER, ROOM])
    assert not audience.has_users_in([OTHER])
    assert not audience.has_users_in([])
