"""Endpoints of membership: what each asks of the service, and what it refuses before."""

from typing import Any, cast

import pytest

from homeserver.api.rooms.membership import MembershipApi
from homeserver.services.rooms.membership import Membership
from tests.homeserver.api.handlers import ALICE, GUEST, Caller, NotedService, serving

ROOM, BOB = "!r:hs1", "@bob:hs1"
AT = "/rooms/!r:hs1"


class Endpoints:
    """The endpoints over a noted service; an alias or ID leads to ROOM, through one server."""

    def __init__(self, requester: Any = ALICE) -> None:
        self.service = NotedService(target=(ROOM, ["hs2"]), joined_rooms=[ROOM])
        self.routes = MembershipApi(cast(Membership, self.service)).routes()
        self.requester = requester

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """Makes one call; returns status and body."""
        async with serving(self.routes, self.requester) as caller:
            return await caller.call(method, path, body)


async def test_joined_rooms_are_those_of_the_requester() -> None:
    """Of nobody else."""
    endpoints = Endpoints()
    assert await endpoints.call("GET", "/joined_rooms") == (200, {"joined_rooms": [ROOM]})
    assert endpoints.service.only.arguments == (ALICE.user_id,)


@pytest.mark.parametrize(
    ("path", "target"),
    [("/join/%23name:hs1", "#name:hs1"), ("/join/!r:hs1", ROOM), (f"{AT}/join", ROOM)],
)
@pytest.mark.parametrize(
    ("query", "via"),
    [
        ("", []),
        ("?via=a&via=b", ["a", "b"]),
        ("?server_name=a&server_name=b", ["a", "b"]),
        ("?via=a&server_name=b", ["a"]),
    ],
)
async def test_a_join_goes_through_the_servers_that_are_named(
    path: str, target: str, query: str, via: list[str]
) -> None:
    """`server_name` is the older name of `via`, which comes first."""
    endpoints = Endpoints()
    reply = await endpoints.call("POST", path + query, {"reason": "why"})
    assert reply == (200, {"room_id": ROOM})
    asked_target, asked_join = endpoints.service.asked
    assert asked_target.arguments[0] == target
    assert list(asked_target.arguments[1]) == via
    assert asked_join.arguments == (ALICE.user_id, ROOM, ["hs2"], {"reason": "why"})
    assert asked_join.options == {"is_guest": False}


async def test_a_guest_joins_as_a_guest() -> None:
    """The room decides whether that is enough."""
    endpoints = Endpoints(GUEST)
    assert (await endpoints.call("POST", f"{AT}/join")).status == 200
    assert endpoints.service.asked[-1].options == {"is_guest": True}


async def test_a_knock_is_made_of_the_room_behind_a_name() -> None:
    """With its reason; guests don't knock."""
    endpoints = Endpoints()
    reply = await endpoints.call("POST", "/knock/%23name:hs1?via=a", {"reason": "why"})
    assert reply == (200, {"room_id": ROOM})
    assert endpoints.service.asked[-1] == (
        "knock",
        (ALICE.user_id, ROOM, ["hs2"], {"reason": "why"}),
        {},
    )
    guest = Endpoints(GUEST)
    assert (await guest.call("POST", "/knock/!r:hs1")).refusal == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert guest.service.asked == []


@pytest.mark.parametrize("body", [None, b"", b"  ", {}, {"reason": None}])
async def test_a_leave_needs_no_body(body: Any) -> None:
    """Nor does it put an empty reason into the event."""
    endpoints = Endpoints()
    assert await endpoints.call("POST", f"{AT}/leave", body) == (200, {})
    assert endpoints.service.only == ("leave", (ALICE.user_id, ROOM, {}), {})


async def test_a_room_is_forgotten() -> None:
    """By its ID."""
    endpoints = Endpoints()
    assert await endpoints.call("POST", f"{AT}/forget") == (200, {})
    assert endpoints.service.only == ("forget", (ALICE.user_id, ROOM), {})


@pytest.mark.parametrize("name", ["invite", "kick", "ban", "unban"])
async def test_another_users_membership_is_changed(name: str) -> None:
    """Each endpoint asks for what it is called."""
    endpoints = Endpoints()
    body = {"user_id": BOB, "reason": "why"}
    assert await endpoints.call("POST", f"{AT}/{name}", body) == (200, {})
    assert endpoints.service.only == (name, (ALICE.user_id, ROOM, BOB, {"reason": "why"}), {})


@pytest.mark.parametrize("name", ["invite", "kick", "ban", "unban"])
@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        (None, "M_MISSING_PARAM"),
        ({}, "M_MISSING_PARAM"),
        ({"user_id": 5}, "M_BAD_JSON"),
        ({"user_id": "bob"}, "M_INVALID_PARAM"),
        ({"user_id": BOB, "reason": 5}, "M_BAD_JSON"),
        ({"user_id": BOB, "reason": "why", "other": 1.5}, "M_BAD_JSON"),
        (b"{", "M_NOT_JSON"),
        (b"[]", "M_BAD_JSON"),
    ],
)
async def test_a_strange_request_changes_nobodys_membership(
    name: str, body: Any, errcode: str
) -> None:
    """A float would become part of an event, which can't hold it."""
    endpoints = Endpoints()
    assert (await endpoints.call("POST", f"{AT}/{name}", body)).refusal == (400, errcode)
    assert endpoints.service.asked == []


async def test_an_invite_by_e_mail_is_denied_as_such() -> None:
    """Not as one without a user."""
    endpoints = Endpoints()
    body = {"medium": "email", "address": "a@b", "id_server": "x", "id_access_token": "y"}
    reply = await endpoints.call("POST", f"{AT}/invite", body)
    assert reply.refusal == (403, "M_THREEPID_DENIED")
    assert endpoints.service.asked == []


@pytest.mark.parametrize("name", ["join", "leave", "forget", "invite", "kick", "ban", "unban"])
async def test_a_path_must_name_a_room(name: str) -> None:
    """An alias is for /join/{roomIdOrAlias} alone."""
    endpoints = Endpoints()
    reply = await endpoints.call("POST", f"/rooms/%23name:hs1/{name}", {"user_id": BOB})
    assert reply.status == 400
    assert endpoints.service.asked == []


async def caller_without_token(caller: Caller) -> int:
    """Returns the status of a call without a token."""
    return (await caller.call("GET", "/joined_rooms", token=False)).status


async def test_nobody_without_a_token_is_answered() -> None:
    """Any of them."""
    endpoints = Endpoints()
    async with serving(endpoints.routes) as caller:
        assert await caller_without_token(caller) == 401
        for route in endpoints.routes:
            path = route.template.removeprefix("/_matrix/client/v3")
            path = path.replace("{roomId}", ROOM).replace("{roomIdOrAlias}", ROOM)
            reply = await caller.call(route.method, path, token=False)
            assert reply.refusal == (401, "M_MISSING_TOKEN")
    assert endpoints.service.asked == []
