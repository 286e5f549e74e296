"""Joins, leaves, knocks and invites between servers over TLS, and residents that lie."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
from aiohttp import web

from federation.errors import MatrixError
from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import RoomId, ServerName
from federation.events.room_versions import SUPPORTED
from federation.events.signatures import signatures_of
from federation.graph.admission import Accepted
from federation.graph.building import EventDraft, sign_event
from federation.limits import JOIN_SERVERS_TRIED_MAX, STRIPPED_STATE_EVENTS_MAX
from federation.ports import JoinedRoom
from federation.transport.joining.joining import MembershipRequest
from federation.transport.requests.client import FederationError, ServerRequest, build_target
from tests.federation.transport.loopback import Lie, Peer, loopback


def request_of(peer: Peer, room_id: RoomId, localpart: str = "bob") -> MembershipRequest:
    return MembershipRequest(room_id, peer.user(localpart), {"displayname": "Bob"})


def changed(resident: Peer, change: Callable[[JsonObject], object]) -> Lie:
    """Answers as the resident does, after `change` worked on the body (in place)."""

    async def answer(request: web.BaseRequest, params: object) -> web.StreamResponse:
        lies = dict(resident.lies)
        resident.lies.clear()
        response = await resident.handle(request)
        resident.lies.update(lies)
        assert isinstance(response, web.Response)
        assert isinstance(response.body, bytes)
        body = canonical_json.decode(response.body)
        if response.status == 200:
            change(body)
        return web.json_response(body, status=response.status)

    return answer


@pytest.mark.parametrize("version", sorted(SUPPORTED))
async def test_a_user_joins_a_room_of_another_server(version: str) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"), version)
        joined = await b.joining.join(request_of(b, room_id), [b.name, a.name])
        assert (joined.resident, joined.servers) == (a.name, (a.name,))
        assert joined.event.content["displayname"] == "Bob"
        assert await a.rooms.joined_servers(room_id) == {"a.test", "b.test"}
        assert await b.rooms.current_state_ids(room_id) == await a.rooms.current_state_ids(room_id)


async def test_a_server_counts_as_asked_from_the_request_to_take_the_join_until_it_is_stored() -> (
    None
):
    """Before that it can know of no join; from then on its users encrypt for the one who joins."""
    async with loopback() as net:
        a, b, c = [await net.peer(f"{name}.test") for name in "abc"]
        room_id = a.rooms.create_room(a.user("alice"))
        bob, known = b.user("bob"), dict[str, list[bool]]()

        def note(step: str) -> Callable[[JsonObject], object]:
            return lambda _: known.update(
                {step: [b.arrivals.has_asked(bob, one.name) for one in (a, c)]}
            )

        a.lies["make_join"] = changed(a, note("template"))
        a.lies["send_join"] = changed(a, note("join"))
        import_join = b.rooms.import_join

        async def noted(joined: JoinedRoom) -> None:
            note("import")({})
            await import_join(joined)

        with patch.object(b.rooms, "import_join", noted):
            await b.joining.join(request_of(b, room_id), [c.name, a.name])
        note("after")({})
        assert known == {
            "template": [False, False],
            "join": [True, False],
            "import": [True, False],
            "after": [False, False],
        }


async def test_servers_are_tried_in_turn_and_the_telling_refusal_is_passed_on() -> None:
    async with loopback() as net:
        a, b, c = [await net.peer(f"{name}.test") for name in "abc"]
        room_id = a.rooms.create_room(a.user("alice"))
        dead = ServerName("dead.test:1")
        net.addresses[dead] = "127.0.0.1:1"
        joined = await b.joining.join(request_of(b, room_id), [dead, c.name, a.name])
        assert joined.resident == a.name
        private = a.rooms.create_room(a.user("alice"), join_rule="invite")
        with pytest.raises(MatrixError) as caught:
            await b.joining.join(request_of(b, private), [dead, a.name, c.name])
        assert (caught.value.status, caught.value.errcode) == (403, "M_FORBIDDEN")
        for via, status in (([dead], 502), ([c.name], 404), ([], 502)):
            with pytest.raises(MatrixError) as caught:
                await b.joining.join(request_of(b, private), via)
            assert caught.value.status == status


@pytest.mark.parametrize(
    ("dead_ones", "joins"), [(JOIN_SERVERS_TRIED_MAX - 1, True), (JOIN_SERVERS_TRIED_MAX, False)]
)
async def test_so_many_servers_are_tried(dead_ones: int, joins: bool) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"))
        dead = [ServerName(f"dead{number}.test:1") for number in range(dead_ones)]
        net.addresses.update(dict.fromkeys(dead, "127.0.0.1:1"))
        if joins:
            assert (
                await b.joining.join(request_of(b, room_id), [*dead, a.name])
            ).resident == a.name
        else:
            with pytest.raises(MatrixError):
                await b.joining.join(request_of(b, room_id), [*dead, a.name])


async def test_a_room_of_an_unknown_version_is_refused_clearly() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"))
        a.lies["make_join"] = changed(a, lambda body: body.update(room_version="org.x"))
        with pytest.raises(MatrixError) as caught:
            await b.joining.join(request_of(b, room_id), [a.name])
        assert caught.value.errcode == "M_UNSUPPORTED_ROOM_VERSION"


@pytest.mark.parametrize(
    "lie",
    [
        {"type": "m.room.message"},
        {"room_id": "!other:a.test"},
        {"sender": "@eve:b.test"},
        {"state_key": "@eve:b.test"},
        {"content": {"membership": "ban"}},
        {"content": 7},
        {"prev_events": 7},
        {"auth_events": [5]},
        {"depth": -1},
    ],
)
async def test_a_template_that_is_not_what_was_asked_for_is_not_signed(lie: JsonObject) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"))
        a.lies["make_join"] = changed(a, lambda body: body["event"].update(lie))
        with pytest.raises(MatrixError) as caught:
            await b.joining.join(request_of(b, room_id), [a.name])
        assert caught.value.status == 502
        assert room_id not in b.rooms.versions


async def test_extra_content_of_a_template_is_not_signed() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"))
        a.lies["make_join"] = changed(
            a, lambda body: body["event"]["content"].update(displayname="Eve", evil=1)
        )
        joined = await b.joining.join(request_of(b, room_id), [a.name])
        assert joined.event.content == {"membership": "join", "displayname": "Bob"}


def _strip_create(body: JsonObject) -> None:
    for part in ("state", "auth_chain"):
        body[part] = [pdu for pdu in body[part] if pdu["type"] != "m.room.create"]


def _forge_all(body: JsonObject) -> None:
    for pdu in (*body["state"], *body["auth_chain"]):
        pdu["signatures"] = {name: {"ed25519:k1": "A" * 86} for name in pdu["signatures"]}


def _of_another_room(body: JsonObject) -> None:
    for pdu in body["state"]:
        pdu["room_id"] = "!other:a.test"


def _double(body: JsonObject) -> None:
    members = [pdu for pdu in body["auth_chain"] if pdu["type"] == "m.room.member"]
    other = {**members[0], "origin_server_ts": 5}
    body["state"].append(other)


def _closed(body: JsonObject) -> None:
    body["state"] = [pdu for pdu in body["state"] if pdu["type"] != "m.room.join_rules"]


@pytest.mark.parametrize(
    "change",
    [_strip_create, _forge_all, _of_another_room, _closed, lambda body: body.clear()],
)
async def test_a_join_whose_state_does_not_hold_is_no_join(
    change: Callable[[JsonObject], object],
) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"))
        a.lies["send_join"] = changed(a, change)
        with pytest.raises(MatrixError):
            await b.joining.join(request_of(b, room_id), [a.name])
        assert room_id not in b.rooms.versions


@pytest.mark.off_spec("raw bodies")
async def test_forged_members_among_honest_state_are_left_out() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"))
        a.lies["send_join"] = changed(a, _double)
        await b.joining.join(request_of(b, room_id), [a.name])
        assert await b.rooms.current_state_ids(room_id) == await a.rooms.current_state_ids(room_id)


async def test_a_restricted_join_bears_the_residents_signature() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        alice = a.user("alice")
        room_id = a.rooms.create_room(alice, join_rule="restricted")
        authorised = {"join_authorised_via_users_server": alice}

        async def template(request: web.BaseRequest, _: object) -> web.StreamResponse:
            bob = b.user("bob")
            content = {"membership": "join", **authorised}
            draft = EventDraft("m.room.member", bob, content, bob)
            event = canonical_json.decode(a.rooms.build(room_id, draft).raw)
            return web.json_response({"room_version": "10", "event": event})

        a.lies["make_join"] = template
        joined = await b.joining.join(request_of(b, room_id), [a.name])
        assert set(signatures_of(joined.event)) == {a.name, b.name}
        kept = a.rooms.events[joined.event.event_id].event
        assert set(signatures_of(kept)) == {a.name, b.name}

        def unsign(body: JsonObject) -> None:
            del body["event"]["signatures"][a.name]

        a.lies["send_join"] = changed(a, unsign)
        with pytest.raises(MatrixError):
            await b.joining.join(request_of(b, room_id), [a.name])


@pytest.mark.parametrize(
    ("status", "errcode"),
    [
        (400, "M_UNABLE_TO_AUTHORISE_JOIN"),
        (400, "M_UNABLE_TO_GRANT_JOIN"),
        (403, "M_FORBIDDEN"),
    ],
)
async def test_a_join_that_a_resident_does_not_vouch_for_is_neither_signed_nor_kept(
    status: int, errcode: str
) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        alice, bob = a.user("alice"), b.user("bob")
        room_id = a.rooms.create_room(alice, join_rule="restricted")
        content = {"membership": "join", "join_authorised_via_users_server": alice}
        made = b_signed(b, a, room_id, EventDraft("m.room.member", bob, content, bob))
        target = build_target("/_matrix/federation/v2/send_join", room_id, made.event_id)
        request = ServerRequest(a.name, "PUT", target, canonical_json.decode(made.raw))
        a.rooms.unauthorised = MatrixError(status, errcode, "no")
        with pytest.raises(FederationError) as caught:
            await b.client.request(request)
        assert (caught.value.status, caught.value.errcode) == (status, errcode)
        assert made.event_id not in a.rooms.events
        a.rooms.unauthorised = None
        answer = await b.client.request(request)
        assert set(answer["event"]["signatures"]) == {a.name, b.name}


def b_signed(b: Peer, a: Peer, room_id: RoomId, draft: EventDraft) -> Event:
    """Returns an event on the heads of a's room, signed by b alone."""
    pdu = canonical_json.decode(a.rooms.build(room_id, draft).raw)
    left_out = ("hashes", "signatures")
    template = {name: value for name, value in pdu.items() if name not in left_out}
    template["origin"] = b.name
    return sign_event(template, a.rooms.versions[room_id], b.name, b.key)


@pytest.mark.parametrize("errcode", ["M_UNABLE_TO_AUTHORISE_JOIN", "M_UNABLE_TO_GRANT_JOIN"])
@pytest.mark.parametrize("step", ["make_join", "send_join"])
async def test_where_one_server_can_not_vouch_for_a_join_another_is_asked(
    step: str, errcode: str
) -> None:
    async with loopback() as net:
        a, b, c = [await net.peer(f"{name}.test") for name in "abc"]
        room_id = a.rooms.create_room(a.user("alice"))
        await c.joining.join(request_of(c, room_id, "carol"), [a.name])

        async def unable(_: web.BaseRequest, __: object) -> web.StreamResponse:
            return web.json_response({"errcode": errcode, "error": "ask another"}, status=400)

        a.lies[step] = unable
        joined = await b.joining.join(request_of(b, room_id), [a.name, c.name])
        assert joined.resident == c.name
        with pytest.raises(MatrixError) as caught:
            await b.joining.join(request_of(b, room_id, "bill"), [a.name])
        assert (caught.value.status, caught.value.errcode) == (400, errcode)


async def invite(a: Peer, b: Peer, room_id: RoomId) -> Event:
    """Returns a signed invite of bob."""
    bob = b.user("bob")
    draft = EventDraft("m.room.member", a.user("alice"), {"membership": "invite"}, bob)
    template = await a.rooms.template(draft, room_id)
    return sign_event(template.event, template.version, a.name, a.key)


async def room_state(a: Peer, room_id: RoomId) -> list[bytes]:
    state = await a.rooms.current_state_ids(room_id)
    return [a.rooms.events[event_id].event.raw for event_id in state.values()]


@pytest.mark.parametrize("version", sorted(SUPPORTED))
async def test_an_invite_comes_back_with_both_signatures_and_can_be_refused(version: str) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"), version, join_rule="invite")
        event = await invite(a, b, room_id)
        signed = await a.joining.invite(event, await room_state(a, room_id))
        assert signed.event_id == event.event_id
        assert set(signatures_of(signed)) == {a.name, b.name}
        ((kept, stripped),) = b.outside.invites
        assert kept.event_id == event.event_id
        assert {"m.room.create", "m.room.join_rules"} <= {entry["type"] for entry in stripped}
        assert all(set(e) == {"type", "state_key", "sender", "content"} for e in stripped)
        a.rooms._place(signed, a.rooms._merged(event.prev_events), Accepted())
        left = await b.joining.leave(request_of(b, room_id), [a.name])
        assert b.outside.departures == [left]
        assert left.event_id in a.rooms.before


@pytest.mark.off_spec("bodies of a false peer")
@pytest.mark.parametrize(
    ("change", "errcode"),
    [
        ({"room_version": "org.x"}, "M_INCOMPATIBLE_ROOM_VERSION"),
        ({"event": 7}, "M_MISSING_PARAM"),
        ({"event": {}}, "M_INVALID_PARAM"),
        ({"invite_room_state": []}, "M_INVALID_PARAM"),
        ({"invite_room_state": 7}, "M_INVALID_PARAM"),
        ({"invite_room_state": [{}]}, "M_INVALID_PARAM"),
        ({"invite_room_state": [{}] * (STRIPPED_STATE_EVENTS_MAX + 1)}, "M_INVALID_PARAM"),
    ],
)
async def test_malformed_invites_are_refused(change: JsonObject, errcode: str) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"), "12")
        event = await invite(a, b, room_id)
        state = [canonical_json.decode(raw) for raw in await room_state(a, room_id)]
        content = {
            "room_version": "12",
            "event": canonical_json.decode(event.raw),
            "invite_room_state": state,
        }
        target = build_target("/_matrix/federation/v2/invite", room_id, event.event_id)
        with pytest.raises(FederationError) as caught:
            await a.client.request(ServerRequest(b.name, "PUT", target, {**content, **change}))
        assert (caught.value.status, caught.value.errcode) == (400, errcode)
        assert not b.outside.invites


@pytest.mark.off_spec("bodies of a false peer")
@pytest.mark.parametrize(
    ("count", "status"), [(STRIPPED_STATE_EVENTS_MAX, 200), (STRIPPED_STATE_EVENTS_MAX + 1, 400)]
)
async def test_an_invite_brings_so_many_entries(count: int, status: int) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"), "12")
        event = await invite(a, b, room_id)
        state = [canonical_json.decode(raw) for raw in await room_state(a, room_id)]
        content = {
            "room_version": "12",
            "event": canonical_json.decode(event.raw),
            "invite_room_state": [*state, *[{}] * (count - len(state))],
        }
        target = build_target("/_matrix/federation/v2/invite", room_id, event.event_id)
        request = ServerRequest(b.name, "PUT", target, content)
        if status == 200:
            await a.client.request(request)
        else:
            with pytest.raises(FederationError) as caught:
                await a.client.request(request)
            assert caught.value.status == status
        assert bool(b.outside.invites) is (status == 200)


@pytest.mark.parametrize("lie", ["unsigned", "changed", "nothing", "forged"])
async def test_an_invite_that_comes_back_otherwise_is_refused(lie: str) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"))

        def change(body: JsonObject) -> None:
            event = body["event"]
            match lie:
                case "unsigned":
                    del event["signatures"][b.name]
                case "changed":
                    event["depth"] += 1
                case "nothing":
                    body.clear()
                case "forged":
                    event["signatures"][b.name] = {"ed25519:k1": "A" * 86}

        b.lies["invite"] = changed(b, change)
        with pytest.raises(MatrixError) as caught:
            await a.joining.invite(await invite(a, b, room_id), await room_state(a, room_id))
        assert caught.value.status == 502


async def test_a_knock_is_taken_and_answered_with_what_helps_to_recognise_the_room() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        alice = a.user("alice")
        room_id = a.rooms.create_room(alice, join_rule="knock")
        a.rooms.send(room_id, alice, "m.room.name", {"name": "Room"}, state_key="")
        knocked = await b.joining.knock(request_of(b, room_id), [a.name])
        assert knocked.event.event_id in a.rooms.before
        assert b.outside.taken_by == {knocked.event.event_id: a.name}
        shown = {entry["type"]: entry["content"] for entry in knocked.stripped_state}
        assert shown["m.room.name"] == {"name": "Room"}
        assert "m.room.create" in shown
        assert "m.room.member" not in shown


@pytest.mark.off_spec("bodies of a false peer")
@pytest.mark.parametrize(
    "lie", ["path", "other_user", "membership", "signature", "room", "hash", "acl"]
)
async def test_a_signed_join_that_is_not_one_is_refused(lie: str) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        alice, bob = a.user("alice"), b.user("bob")
        room_id = a.rooms.create_room(alice)
        elsewhere = a.rooms.create_room(alice)
        b.rooms.versions, b.rooms.head_ids = a.rooms.versions, a.rooms.head_ids
        b.rooms.events, b.rooms.before = a.rooms.events, a.rooms.before
        draft = EventDraft("m.room.member", bob, {"membership": "join"}, bob)
        if lie == "other_user":
            draft = EventDraft("m.room.member", alice, {"membership": "join"}, alice)
        if lie == "membership":
            draft = EventDraft("m.room.member", bob, {"membership": "leave"}, bob)
        event = b.rooms.build(elsewhere if lie == "room" else room_id, draft)
        pdu = canonical_json.decode(event.raw)
        if lie == "signature":
            pdu["signatures"] = {b.name: {"ed25519:k1": "A" * 86}}
        if lie == "hash":
            pdu["content"]["displayname"] = "Eve"
        if lie == "acl":
            acl = {"allow": ["a.test"]}
            a.rooms.send(room_id, alice, "m.room.server_acl", acl, state_key="")
        event_id = event.event_id + "x" if lie == "path" else event.event_id
        target = build_target("/_matrix/federation/v2/send_join", room_id, event_id)
        with pytest.raises(FederationError) as caught:
            await b.client.request(ServerRequest(a.name, "PUT", target, pdu))
        assert caught.value.status == (403 if lie == "acl" else 400)
        assert event.event_id not in a.rooms.before


async def test_the_older_forms_answer_with_a_list() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"))
        await b.join(a, room_id, "first")
        bob = b.user("bob")
        for membership in ("join", "leave"):
            b.rooms.head_ids[room_id] = list(a.rooms.head_ids[room_id])
            b.rooms.events, b.rooms.before = a.rooms.events, a.rooms.before
            draft = EventDraft("m.room.member", bob, {"membership": membership}, bob)
            event = b.rooms.build(room_id, draft)
            path = f"/_matrix/federation/v1/send_{membership}"
            target = build_target(path, room_id, event.event_id)
            pdu = canonical_json.decode(event.raw)
            body = await b.client.request_bytes(ServerRequest(a.name, "PUT", target, pdu))
            status, answer = canonical_json.decode(body)
            assert status == 200
            assert ("state" in answer) is (membership == "join")
            assert event.event_id in a.rooms.before


@pytest.mark.off_spec("refusals of a false peer")
@pytest.mark.parametrize(
    ("status", "errcode", "expected"),
    [
        (404, "M_UNRECOGNIZED", (502, "M_UNKNOWN")),
        (405, "M_UNRECOGNIZED", (502, "M_UNKNOWN")),
        (400, "M_INVALID_PARAM", (502, "M_UNKNOWN")),
        (400, "M_MISSING_PARAM", (502, "M_UNKNOWN")),
        (401, "M_UNKNOWN_TOKEN", (502, "M_UNKNOWN")),
        (403, "M_UNKNOWN_TOKEN", (403, "M_FORBIDDEN")),
        (403, "M_USER_LOCKED", (403, "M_FORBIDDEN")),
        (403, "M_FORBIDDEN", (403, "M_FORBIDDEN")),
        (404, "M_NOT_FOUND", (404, "M_NOT_FOUND")),
    ],
)
@pytest.mark.parametrize("step", ["make", "send"])
async def test_a_refusal_is_passed_on_only_if_it_is_about_the_room(
    step: str, status: int, errcode: str, expected: tuple[int, str]
) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"), join_rule="knock")

        async def refuse(_: web.BaseRequest, __: object) -> web.StreamResponse:
            return web.json_response({"errcode": errcode, "error": "no"}, status=status)

        a.lies[f"{step}_"] = refuse
        for ask in (b.joining.join, b.joining.knock, b.joining.leave):
            if ask != b.joining.knock and step == "send":
                continue  # their templates are refused here
            with pytest.raises(MatrixError) as caught:
                await ask(request_of(b, room_id), [a.name])
            assert (caught.value.status, caught.value.errcode) == expected


@pytest.mark.off_spec("a server of the older form alone")
@pytest.mark.parametrize("status", [400, 404])
@pytest.mark.parametrize("version", ["1", "2", "3"])
async def test_an_invite_takes_the_older_form_where_that_can_say_it(
    version: str, status: int
) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"), version, join_rule="invite")

        async def unknown(_: web.BaseRequest, __: object) -> web.StreamResponse:
            return web.json_response({"errcode": "M_UNRECOGNIZED", "error": "no"}, status=status)

        b.lies["v2/invite"] = unknown
        event = await invite(a, b, room_id)
        state = await room_state(a, room_id)
        if version == "3":
            with pytest.raises(MatrixError) as caught:
                await a.joining.invite(event, state)
            assert caught.value.status == 502
            assert b.outside.invites == []
            return
        b.rooms.versions[room_id] = SUPPORTED[version]
        signed = await a.joining.invite(event, state)
        assert set(signatures_of(signed)) == {a.name, b.name}
        ((kept, stripped),) = b.outside.invites
        assert kept.event_id == event.event_id
        assert "m.room.create" in {entry["type"] for entry in stripped}
