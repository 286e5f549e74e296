"""Endpoints of account data and tags: each user's own, of a room or of none."""

from typing import Any, cast

import pytest

from homeserver.api.account_data.account_data import AccountDataApi
from homeserver.services.account_data.account_data import AccountDataService
from tests.homeserver.api.handlers import GUEST, NotedService, Reply, serving

ROOM, USER = "!r:hs1", "/user/%407:hs1"
OF_ROOM = f"{USER}/rooms/{ROOM}"


class Endpoints:
    """The endpoints over a noted service."""

    def __init__(self) -> None:
        self.service = NotedService(get={"a": 1}, tags={"m.favourite": {"order": 0.5}})
        self.routes = AccountDataApi(cast(AccountDataService, self.service)).routes()

    async def call(self, method: str, path: str, body: Any = None) -> Reply:
        """Makes one call, as a guest."""
        async with serving(self.routes, GUEST) as caller:
            return await caller.call(method, path, body)


@pytest.mark.parametrize(("path", "room"), [(USER, ""), (OF_ROOM, ROOM)])
async def test_data_is_read_and_written(path: str, room: str) -> None:
    """Of a room, or of none; floats are allowed, as it becomes no event."""
    endpoints = Endpoints()
    assert await endpoints.call("GET", f"{path}/account_data/a.b") == (200, {"a": 1})
    assert await endpoints.call("PUT", f"{path}/account_data/a.b", {"x": 1.5}) == (200, {})
    assert endpoints.service.asked == [
        ("get", (GUEST.user_id, room, "a.b"), {}),
        ("put", (GUEST.user_id, room, "a.b", {"x": 1.5}), {}),
    ]


async def test_tags_are_read_set_and_removed() -> None:
    """A tag without a body has no order."""
    endpoints = Endpoints()
    tags = {"tags": {"m.favourite": {"order": 0.5}}}
    assert await endpoints.call("GET", f"{OF_ROOM}/tags") == (200, tags)
    assert await endpoints.call("PUT", f"{OF_ROOM}/tags/u.x", {"order": 0.1}) == (200, {})
    assert await endpoints.call("PUT", f"{OF_ROOM}/tags/u.x") == (200, {})
    assert await endpoints.call("DELETE", f"{OF_ROOM}/tags/u.x") == (200, {})
    assert endpoints.service.asked == [
        ("tags", (GUEST.user_id, ROOM), {}),
        ("put_tag", (GUEST.user_id, ROOM, "u.x", {"order": 0.1}), {}),
        ("put_tag", (GUEST.user_id, ROOM, "u.x", {}), {}),
        ("delete_tag", (GUEST.user_id, ROOM, "u.x"), {}),
    ]


CALLS = [
    ("GET", "{user}/account_data/a"),
    ("PUT", "{user}/account_data/a"),
    ("GET", "{user}/rooms/{room}/account_data/a"),
    ("PUT", "{user}/rooms/{room}/account_data/a"),
    ("GET", "{user}/rooms/{room}/tags"),
    ("PUT", "{user}/rooms/{room}/tags/a"),
    ("DELETE", "{user}/rooms/{room}/tags/a"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_nobody_reaches_anothers_data(method: str, path: str) -> None:
    """By none of the endpoints."""
    endpoints = Endpoints()
    body: Any = {} if method == "PUT" else None
    place = path.format(user="/user/%40bob:hs1", room=ROOM)
    assert (await endpoints.call(method, place, body)).refusal == (403, "M_FORBIDDEN")
    assert endpoints.service.asked == []


@pytest.mark.parametrize(("method", "path"), CALLS[2:])
async def test_a_room_must_be_named_as_one(method: str, path: str) -> None:
    """Else there would be data of rooms that can't be."""
    endpoints = Endpoints()
    body: Any = {} if method == "PUT" else None
    place = path.format(user=USER, room="room")
    assert (await endpoints.call(method, place, body)).refusal == (400, "M_INVALID_PARAM")
    assert endpoints.service.asked == []


@pytest.mark.parametrize(("body", "errcode"), [(b"x", "M_NOT_JSON"), (b"[]", "M_BAD_JSON")])
async def test_data_is_an_object(body: bytes, errcode: str) -> None:
    """Of a user, a room, or a tag."""
    endpoints = Endpoints()
    for path in (f"{USER}/account_data/a", f"{OF_ROOM}/account_data/a", f"{OF_ROOM}/tags/a"):
        assert (await endpoints.call("PUT", path, body)).refusal == (400, errcode)
    assert endpoints.service.asked == []
