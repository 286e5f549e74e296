"""What other servers say of rooms: whom it counts for, and how long it is kept."""

from __future__ import annotations

from typing import Any

import pytest

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, ServerName
from federation.transport.requests.client import FailureKind, FederationError
from homeserver import limits
from homeserver.services.rooms.summaries.remote_summaries import RemoteSummaries
from tests.homeserver.device_world import Clock

HERE, A, B = ServerName("here.example"), ServerName("a.example"), ServerName("b.example")
SPACE, ROOM, SUB = RoomId("!space:a.example"), RoomId("!room:a.example"), RoomId("!sub:a.example")


def summary(room_id: str, *children: str, **more: Any) -> JsonObject:
    return {
        "room_id": room_id,
        "num_joined_members": 1,
        "world_readable": False,
        "guest_can_join": False,
        "children_state": [
            {
                "type": "m.space.child",
                "state_key": child,
                "content": {"via": [A]},
                "sender": "@a:a.example",
                "origin_server_ts": 1,
            }
            for child in children
        ],
        **more,
    }


def answer(room: JsonObject, *children: JsonObject, hidden: object = ()) -> JsonObject:
    return {"room": room, "children": list(children), "inaccessible_children": hidden}


SPACE_ANSWER = answer(
    summary(SPACE, ROOM, SUB, room_type="m.space"),
    summary(ROOM, name="Room"),
    summary(SUB, room_type="m.space"),
    summary("!stranger:a.example"),
    {"room_id": 5},
    hidden=["!hidden:a.example", ROOM, 7],
)


class Servers:
    """Other servers, with what they say; who was asked for what."""

    def __init__(self, said: dict[tuple[str, str], Any]) -> None:
        self.said, self.clock = said, Clock()
        self.asked: list[tuple[str, str]] = []
        self.remote = RemoteSummaries(self.ask, self.clock, HERE)

    async def ask(self, server: ServerName, room_id: RoomId) -> JsonObject:
        self.asked.append((server, room_id))
        if (server, room_id) not in self.said:
            raise FederationError(server, FailureKind.STATUS, "none", status=404)
        said: JsonObject = self.said[server, room_id]
        return said

    async def find(self, room_id: RoomId, *via: ServerName) -> str | None:
        """The server that showed the room."""
        found = await self.remote.find(room_id, via)
        return None if found is None else found.teller


async def test_the_first_server_that_shows_a_room_counts() -> None:
    servers = Servers({(B, ROOM): answer(summary(ROOM))})
    assert await servers.find(ROOM, HERE, A, B) == B
    assert servers.asked == [(A, ROOM), (B, ROOM)], "and this one isn't asked"


async def test_so_many_servers_are_asked() -> None:
    names = [ServerName(f"s{number}.example") for number in range(5)]
    most = limits.SUMMARY_SERVERS_ASKED
    assert await Servers({(names[most], ROOM): answer(summary(ROOM))}).find(ROOM, *names) is None
    last = Servers({(names[most - 1], ROOM): answer(summary(ROOM))})
    assert await last.find(ROOM, *names) == names[most - 1]


async def test_answers_are_kept_for_a_time_by_server() -> None:
    servers = Servers({(A, ROOM): answer(summary(ROOM)), (B, ROOM): answer(summary(ROOM))})
    for _ in range(2):
        assert await servers.find(ROOM, A) == A
    assert await servers.find(ROOM, B) == B, "what A says is no answer to who asks B"
    assert servers.asked == [(A, ROOM), (B, ROOM)]
    servers.clock.seconds += limits.SUMMARY_KEPT_S - 1
    await servers.find(ROOM, A)
    assert len(servers.asked) == 2
    servers.clock.seconds += 1
    await servers.find(ROOM, A)
    assert len(servers.asked) == 3


async def test_a_server_without_the_room_is_left_alone_for_a_time() -> None:
    servers = Servers({})
    for _ in range(2):
        assert await servers.find(ROOM, A) is None
    assert servers.asked == [(A, ROOM)]
    servers.clock.seconds += limits.SUMMARY_FAILURE_KEPT_S
    servers.said[A, ROOM] = answer(summary(ROOM))
    assert await servers.find(ROOM, A) == A


async def test_children_are_told_of_with_their_parent() -> None:
    servers = Servers({(A, SPACE): SPACE_ANSWER})
    assert servers.remote.told(A, ROOM) is None
    space = await servers.remote.find(SPACE, [A])
    assert space is not None
    assert space.inaccessible == {ROOM}, "of the children alone"
    told = servers.remote.told(A, ROOM)
    assert told is not None
    assert (told.summary.entry["name"], told.is_unfinished) == ("Room", False)
    assert servers.remote.told(B, ROOM) is None
    assert servers.remote.told(A, RoomId("!stranger:a.example")) is None
    assert await servers.find(ROOM, A) == A
    assert servers.asked == [(A, SPACE)], "a room that is no space needn't be asked for again"


async def test_a_child_that_is_a_space_is_asked_for() -> None:
    servers = Servers({(A, SPACE): SPACE_ANSWER})
    await servers.find(SPACE, A)
    told = servers.remote.told(A, SUB)
    assert told is not None
    assert told.is_unfinished
    servers.said[A, SUB] = answer(summary(SUB, ROOM, room_type="m.space"))
    whole = await servers.remote.find(SUB, [A])
    assert whole is not None
    assert [child.room_id for child in whole.summary.children] == [ROOM]
    servers.clock.seconds += limits.SUMMARY_KEPT_S - 1
    servers.said[A, SPACE] = SPACE_ANSWER
    await servers.remote._fetch(A, SPACE)
    assert servers.remote.told(A, SUB) == whole, "what its parent's answer says is less"


@pytest.mark.parametrize(
    "said",
    [{}, {"room": None}, answer(summary("!other:a.example")), {"room": summary(ROOM)["room_id"]}],
)
async def test_an_answer_about_something_else_is_none(said: JsonObject) -> None:
    assert await Servers({(A, ROOM): said}).find(ROOM, A) is None


@pytest.mark.parametrize("children", [None, 5, "x", {"a": 1}])
async def test_children_that_are_no_list_are_none(children: object) -> None:
    said = {"room": summary(ROOM), "children": children, "inaccessible_children": children}
    found = await Servers({(A, ROOM): said}).remote.find(ROOM, [A])
    assert found is not None
    assert found.inaccessible == frozenset()


async def test_answers_take_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    said = answer(summary(ROOM, topic="x" * 500))
    monkeypatch.setattr(limits, "SUMMARIES_KEPT_BYTES", 1_500)
    servers = Servers({(A, ROOM): said, (B, ROOM): said})
    await servers.find(ROOM, A)
    await servers.find(ROOM, A)
    assert len(servers.asked) == 1
    await servers.find(ROOM, B)
    await servers.find(ROOM, A)
    assert len(servers.asked) == 3, "the second took the first's place"
    failing = Servers({})
    monkeypatch.setattr(limits, "SUMMARY_FAILURE_BYTES", 1_000)
    await failing.find(ROOM, A, B)
    await failing.find(ROOM, A)
    assert failing.asked == [(A, ROOM), (B, ROOM), (A, ROOM)]
