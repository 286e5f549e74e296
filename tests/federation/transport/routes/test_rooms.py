"""Reads of rooms by servers: only where they are joined, only visible events."""

import pytest

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.ids import EventId, RoomId, UserId
from federation.limits import (
    EVENT_IDS_PER_REQUEST_MAX,
    INTEGER_DIGITS_MAX,
    MISSING_EVENTS_SERVED_DEFAULT,
    MISSING_EVENTS_SERVED_MAX,
)
from federation.transport.requests.client import FederationError, ServerRequest, build_target
from tests.federation.transport.loopback import Loopback, Peer, loopback, transaction
from tests.federation.transport.memory_ports import until

V1 = "/_matrix/federation/v1"


async def shared_room(net: Loopback) -> tuple[Peer, Peer, RoomId, list[EventId]]:
    """Returns a room of a.test with bob of b.test and 30 messages."""
    a, b = await net.peer("a.test"), await net.peer("b.test")
    alice = a.user("alice")
    room_id = a.rooms.create_room(alice)
    await b.join(a, room_id)
    messages = [
        a.rooms.send(room_id, alice, "m.room.message", {"body": str(i)}).event_id for i in range(30)
    ]
    return a, b, room_id, messages


def targets(room_id: RoomId, event_id: EventId) -> list[str]:
    """Returns a GET of each endpoint about a room."""
    one = [("event_id", str(event_id))]
    return [
        build_target(f"{V1}/state", room_id, query=one),
        build_target(f"{V1}/state_ids", room_id, query=one),
        build_target(f"{V1}/event_auth", room_id, event_id),
        build_target(f"{V1}/backfill", room_id, query=[("v", str(event_id)), ("limit", "5")]),
    ]


async def refused(peer: Peer, to: Peer, target: str, content: JsonObject | None = None) -> int:
    method = "GET" if content is None else "POST"
    with pytest.raises(FederationError) as caught:
        await peer.client.request(ServerRequest(to.name, method, target, content))
    assert caught.value.status is not None
    return caught.value.status


def missing(room_id: RoomId, latest: EventId, **more: object) -> tuple[str, JsonObject]:
    content = {"latest_events": [latest], "earliest_events": [], **more}
    return build_target(f"{V1}/get_missing_events", room_id), content


async def test_servers_in_the_room_get_state_history_and_auth_chains() -> None:
    async with loopback() as net:
        a, b, room_id, messages = await shared_room(net)
        state, ids, auth, back = targets(room_id, messages[-1])
        expected = set((await a.rooms.current_state_ids(room_id)).values())
        got = await b.client.get(a.name, ids)
        assert set(got["pdu_ids"]) == expected
        chain = set(await a.rooms.auth_chain(expected))
        assert set(got["auth_chain_ids"]) == chain
        whole = await b.client.get(a.name, state)
        assert (len(whole["pdus"]), len(whole["auth_chain"])) == (len(expected), len(chain))
        assert len((await b.client.get(a.name, auth))["auth_chain"]) == 3
        history = await b.client.get(a.name, back)
        assert [pdu["content"]["body"] for pdu in history["pdus"]] == ["29", "28", "27", "26", "25"]
        one = await b.client.get(a.name, build_target(f"{V1}/event", messages[0]))
        assert one["pdus"][0]["content"] == {"body": "0"}
        assert one["origin"] == a.name


async def test_missing_events_are_bounded_and_oldest_first() -> None:
    async with loopback() as net:
        a, b, room_id, messages = await shared_room(net)
        target, content = missing(room_id, messages[-1], limit=1_000)
        got = await b.client.request(ServerRequest(a.name, "POST", target, content))
        bodies = [int(pdu["content"]["body"]) for pdu in got["events"]]
        assert bodies == list(range(29 - MISSING_EVENTS_SERVED_MAX, 29))
        target, content = missing(room_id, messages[-1])
        got = await b.client.request(ServerRequest(a.name, "POST", target, content))
        assert len(got["events"]) == MISSING_EVENTS_SERVED_DEFAULT
        target, content = missing(room_id, messages[-1], earliest_events=[messages[20]], limit=50)
        got = await b.client.request(ServerRequest(a.name, "POST", target, content))
        assert len(got["events"]) == 8


@pytest.mark.parametrize(("limit", "given"), [(5, 5), (6, 6), (7, 6)])
async def test_backfill_is_bounded(monkeypatch: pytest.MonkeyPatch, limit: int, given: int) -> None:
    monkeypatch.setattr("federation.transport.routes.rooms.BACKFILL_EVENTS_SERVED_MAX", 6)
    async with loopback() as net:
        a, b, room_id, messages = await shared_room(net)
        query = [("v", str(messages[-1])), ("limit", str(limit))]
        history = await b.client.get(a.name, build_target(f"{V1}/backfill", room_id, query=query))
        assert len(history["pdus"]) == given


async def test_servers_that_are_not_in_the_room_read_nothing() -> None:
    async with loopback() as net:
        a, _, room_id, messages = await shared_room(net)
        c = await net.peer("c.test")
        for target in targets(room_id, messages[-1]):
            assert await refused(c, a, target) == 403
        target, content = missing(room_id, messages[-1])
        assert await refused(c, a, target, content) == 403
        assert await refused(c, a, build_target(f"{V1}/event", messages[-1])) == 404


async def test_a_server_that_is_denied_reads_nothing() -> None:
    async with loopback() as net:
        a, b, room_id, messages = await shared_room(net)
        acl = {"allow": ["*"], "deny": ["B.TEST"]}
        a.rooms.send(room_id, a.user("alice"), "m.room.server_acl", acl, state_key="")
        every = [*targets(room_id, messages[0]), build_target(f"{V1}/event", messages[0])]
        every += [
            build_target(f"{V1}/make_{kind}", room_id, b.user("eve"), query=[("ver", "10")])
            for kind in ("join", "leave", "knock")
        ]
        for target in every:
            assert await refused(b, a, target) == 403


async def banned(a: Peer, b: Peer, room_id: RoomId) -> EventId:
    """Alice bans the only user of b.test."""
    ban = {"membership": "ban"}
    alice, bob = a.user("alice"), b.user("bob")
    return a.rooms.send(room_id, alice, "m.room.member", ban, state_key=bob).event_id


async def test_a_banned_server_learns_of_the_ban_and_of_nothing_later() -> None:
    async with loopback() as net:
        a, b, room_id, messages = await shared_room(net)
        ban = await banned(a, b, room_id)
        after = a.rooms.send(room_id, a.user("alice"), "m.room.message", {"body": "x"}).event_id
        for event_id in (messages[-1], ban):
            for target in targets(room_id, event_id):
                await b.client.get(a.name, target)
            await b.client.get(a.name, build_target(f"{V1}/event", event_id))
        target, content = missing(room_id, ban, earliest_events=[messages[-4]])
        answer = await b.client.request(ServerRequest(a.name, "POST", target, content))
        assert [one["content"] for one in answer["events"]] == [
            {"body": str(number)} for number in (27, 28, 29)
        ]
        for target in targets(room_id, after):
            assert await refused(b, a, target) == 403
        assert await refused(b, a, build_target(f"{V1}/event", after)) == 404
        target, content = missing(room_id, after)
        assert await refused(b, a, target, content) == 403
        content["latest_events"] = [after, ban]
        answer = await b.client.request(ServerRequest(a.name, "POST", target, content))
        assert len(answer["events"]) == 10
        assert all(one["type"] == "m.room.message" for one in answer["events"])
        assert {"body": "x"} not in [one["content"] for one in answer["events"]]
        query = [("v", str(after)), ("v", str(ban)), ("limit", "2")]
        answer = await b.client.get(a.name, build_target(f"{V1}/backfill", room_id, query=query))
        assert [one["type"] for one in answer["pdus"]] == ["m.room.member", "m.room.message"]


async def test_a_banned_server_finds_out_when_it_lacks_what_came_before_the_ban() -> None:
    async with loopback() as net:
        a, b, room_id, messages = await shared_room(net)
        ban = await banned(a, b, room_id)
        event = a.rooms.events[ban].event
        pdu = canonical_json.decode(event.raw)
        await b.inbox.receive(a.name, "t", transaction({"pdus": [pdu]}))
        await until(lambda: ban in b.rooms.before)
        assert await b.rooms.joined_servers(room_id) == {a.name}
        assert set(messages) <= b.rooms.before.keys()


async def test_what_a_server_may_not_see_is_redacted() -> None:
    async with loopback() as net:
        a, b, room_id, messages = await shared_room(net)
        a.rooms.hidden = {messages[-1]}
        one = await b.client.get(a.name, build_target(f"{V1}/event", messages[-1]))
        assert one["pdus"][0]["content"] == {}
        history = await b.client.get(a.name, targets(room_id, messages[-1])[3])
        assert [len(pdu["content"]) for pdu in history["pdus"]] == [0, 1, 1, 1, 1]


async def test_events_of_another_room_are_not_found() -> None:
    async with loopback() as net:
        a, b, room_id, _ = await shared_room(net)
        secret = a.rooms.create_room(a.user("alice"), join_rule="invite")
        hidden = a.rooms.send(secret, a.user("alice"), "m.room.message", {"body": "x"}).event_id
        state, ids, auth, back = targets(room_id, hidden)
        for target in (state, ids, auth):
            assert await refused(b, a, target) == 404
        assert (await b.client.get(a.name, back))["pdus"] == []
        target, content = missing(room_id, hidden)
        answer = await b.client.request(ServerRequest(a.name, "POST", target, content))
        assert answer["events"] == []
        assert await refused(b, a, build_target(f"{V1}/event", hidden)) == 404
        assert await refused(b, a, build_target(f"{V1}/event", "$unknown")) == 404
        assert await refused(b, a, targets(RoomId("!unknown:a.test"), hidden)[0]) == 404


@pytest.mark.off_spec("malformed by intent")
async def test_malformed_questions_are_refused() -> None:
    async with loopback() as net:
        a, b, room_id, messages = await shared_room(net)
        first = str(messages[0])
        over = [("v", first)] * (EVENT_IDS_PER_REQUEST_MAX + 1)
        every = [
            build_target(f"{V1}/state", "room", query=[("event_id", first)]),
            build_target(f"{V1}/state", room_id),
            build_target(f"{V1}/state", room_id, query=[("event_id", "x")]),
            build_target(f"{V1}/backfill", room_id, query=[("v", first)]),
            build_target(f"{V1}/backfill", room_id, query=[("v", first), ("limit", "ten")]),
            build_target(f"{V1}/backfill", room_id, query=[*over, ("limit", "5")]),
        ]
        for target in every:
            assert await refused(b, a, target) == 400
        exactly = build_target(f"{V1}/backfill", room_id, query=[*over[1:], ("limit", "5")])
        assert len((await b.client.get(a.name, exactly))["pdus"]) == 5
        bodies: list[JsonObject] = [
            {"latest_events": 7},
            {"latest_events": [7], "earliest_events": []},
            {"latest_events": [], "earliest_events": [], "limit": "x"},
            {"latest_events": [first] * (EVENT_IDS_PER_REQUEST_MAX + 1), "earliest_events": []},
        ]
        for body in bodies:
            assert await refused(b, a, missing(room_id, messages[0])[0], body) == 400


async def test_templates_are_for_users_of_the_origin_and_supported_versions() -> None:
    async with loopback() as net:
        a, b, room_id, _ = await shared_room(net)
        for user, version, status in (
            (UserId("@carol:c.test"), "10", 403),
            (b.user("carol"), "9", 400),
            (UserId("carol"), "10", 400),
        ):
            target = build_target(f"{V1}/make_join", room_id, user, query=[("ver", version)])
            assert await refused(b, a, target) == status
        target = build_target(f"{V1}/make_join", room_id, b.user("carol"), query=[("ver", "10")])
        template = await b.client.get(a.name, target)
        assert template["room_version"] == "10"
        assert "signatures" not in template["event"]
        assert canonical_json.encode(template)


@pytest.mark.parametrize(
    ("digits", "status"), [(INTEGER_DIGITS_MAX, 200), (INTEGER_DIGITS_MAX + 1, 400)]
)
async def test_a_number_has_so_many_digits(digits: int, status: int) -> None:
    async with loopback() as net:
        a, b, room_id, messages = await shared_room(net)
        query = [("v", str(messages[-1])), ("limit", "9" * digits)]
        target = build_target(f"{V1}/backfill", room_id, query=query)
        if status == 200:
            assert len((await b.client.get(a.name, target))["pdus"]) > 30
        else:
            assert await refused(b, a, target) == status
