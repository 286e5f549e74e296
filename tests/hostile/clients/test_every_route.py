"""Every route of the table against bad parameters, queries, bodies and tokens.

Each answer is the spec's error: never a 5xx, always JSON with an errcode, with the CORS headers,
and a refusal stores nothing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from copy import deepcopy
from itertools import islice
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeserver.api.http.routes import Auth
from tests.hostile.clients.conftest import Scene
from tests.hostile.clients.operations import (
    BODIES,
    BODY_METHODS,
    PAGES,
    PARAMETERS,
    QUERIES,
    SPENT_BY,
    Operation,
    operations,
)
from tests.hostile.clients.running_server import Reply, User

pytestmark = pytest.mark.asyncio(loop_scope="module")

BAD_PARAMETERS = (
    "",
    "%00",
    "a%00b",
    "%FF%FE",
    "%ED%A0%80",
    "%",
    "%zz",
    "%2F",
    "..",
    "!",
    "@",
    "$",
    "#",
    "!nowhere:here.example",
    "@nobody:here.example",
    "@x:nowhere.invalid:99999999",
    "%23no:here.example",
    "$nothing",
    "x" * 256,
    "!" + "x" * 300 + ":here.example",
    "%F0%9F%92%A9" * 80,
    "-1",
    "99999999999999999999999999",
    "%22%7B%7D%27%3B--",
)
BAD_QUERIES = (
    "%00",
    "%FF",
    "%ED%A0%80",
    "-1",
    "1.5",
    "9" * 400,
    "NaN",
    "true",
    "s",
    "s1_",
    "s" + "9" * 30,
    "t1.1",
    "1:2:3~4",
    "[]",
    "%7B%22limit%22%3A-5%7D",
    "%7B%22limit%22%3A1e999%7D",
    "%7B%22room%22%3A" * 30,
    "%5B" * 10_000,
    "x" * 7000,
)
BAD_BODIES = (
    b"",
    b"{",
    b"nonsense",
    b"null",
    b"[]",
    b"1",
    b'"text"',
    b"\xff\xfe",
    b'{"a":"\xed\xa0\x80"}',
    b'{"a":"\\ud800"}',
    b'{"\\ud800":1}',
    b'{"a":NaN}',
    b'{"a":1e999}',
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b"[" * 100_000,
    b'{"a":' + b"9" * 5000 + b"}",
    b'{"a":1}{"b":2}',
    b'{"a":1,}',
)
BAD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    1.5,
    2**53,
    -(2**53),
    "",
    "\0",
    "a\0b",
    "x" * 300,
    "@x",
    "!x:y",
    [],
    [None],
    [[]],
    {},
    {"": None},
    {"\0": {"\0": "\0"}},
    ["\0"],
)


class Attack:
    """Sends requests and holds what must hold of each answer."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.server = scene, scene.server
        self._numbers = itertools.count(1)
        self._spare: User | None = None
        self._before: dict[str, int] | None = None

    async def actor(self, operation: Operation) -> User:
        """Who asks: a user that can be spared, where the operation may log out."""
        if not operation.template.endswith(tuple(SPENT_BY)):
            return self.scene.alice
        if self._spare is None or (await self._asks(self._spare)).status == 401:
            self._before = None
            self._spare = await self.server.register(f"spare{next(self._numbers)}x")
        return self._spare

    async def _asks(self, user: User) -> Reply:
        return await self.server.call("GET", "/account/whoami", by=user)

    def filled(self, user: User) -> dict[str, str]:
        """What placeholders stand for."""
        scene = self.scene
        return {
            "room": scene.room_id,
            "event": scene.event_id,
            "me": user.user_id,
            "other": scene.bob.user_id,
            "device": user.device_id,
            "fresh": f"fresh{next(self._numbers)}",
        }

    async def check(
        self, operation: Operation, path: str, body: object, user: User | None
    ) -> Reply:
        """Sends one request and checks the answer."""
        before = self._before or await self.server.rows()
        reply = await self.server.call(operation.method, path, body, by=user)
        self._before = before if reply.status >= 400 else None
        told = (operation.method, path[:300], str(body)[:300], user and user.user_id, reply)
        assert reply.status < 500 or reply.status == 502, told
        if operation.name in PAGES and isinstance(reply.body, bytes):
            assert reply.headers["Content-Type"] == "text/html; charset=utf-8", told
            assert "default-src 'none'" in reply.headers["Content-Security-Policy"], told
            assert reply.status < 400 or await self.server.rows() == before, told
            return reply
        assert isinstance(reply.body, dict | list), told
        assert reply.headers["Access-Control-Allow-Origin"] == "*", told
        assert reply.headers["Content-Type"] == "application/json", told
        if reply.status >= 400:
            assert isinstance(reply.body, dict), told
            is_authentication = reply.status == 401 and "flows" in reply.body
            assert reply.errcode.startswith("M_") or is_authentication, told
            assert isinstance(reply.body.get("error", ""), str), told
            assert await self.server.rows() == before, told
        return reply


@pytest.fixture
def attack(scene: Scene) -> Attack:
    """An attack on the scene."""
    return Attack(scene)


async def test_every_route_has_a_valid_request_here(scene: Scene) -> None:
    found = operations(scene.server.routes)
    names = {operation.name for operation in found}
    assert BODIES.keys() <= names
    assert QUERIES.keys() <= names
    for operation in found:
        assert set(operation.parameters) <= PARAMETERS.keys()
        if operation.method in ("POST", "PUT"):
            assert operation.name in BODIES


async def test_bad_parts_of_paths(attack: Attack) -> None:
    for operation in operations(attack.server.routes):
        for name in operation.parameters:
            for bad in BAD_PARAMETERS:
                user = await attack.actor(operation)
                filled = attack.filled(user)
                path = operation.path(filled, {name: bad})
                await attack.check(operation, path, operation.body(filled), user)


async def test_bad_queries(attack: Attack) -> None:
    for operation in operations(attack.server.routes):
        valid = operation.query()
        user = await attack.actor(operation)
        for name in (*valid, "unknown"):
            for bad in BAD_QUERIES:
                filled = attack.filled(user)
                query = {**valid, name: bad}
                if "filter" in valid and name != "filter":
                    del query["filter"]
                text = "&".join(f"{key}={value}" for key, value in query.items() if value)
                path = f"{operation.path(filled)}?{text}"
                body = operation.body(filled)
                if not (operation.method in BODY_METHODS and name == "unknown"):
                    await attack.check(operation, path, body, user)


async def test_bodies_that_are_no_json(attack: Attack) -> None:
    for operation in operations(attack.server.routes):
        if operation.method not in BODY_METHODS:
            continue
        # a log-out takes any body, and each user who is spent must be replaced
        step = 6 if operation.template.endswith(tuple(SPENT_BY)) else 1
        for bad in BAD_BODIES[::step]:
            user = await attack.actor(operation)
            path = operation.path(attack.filled(user))
            await attack.check(operation, path, bad, user)


def spoiled(body: Any) -> Iterator[Any]:
    """A body with each of its values replaced by each bad one, with each key missing, and with
    each key spoiled."""
    for path in list(_places(body)):
        for bad in BAD_VALUES:
            changed = deepcopy(body)
            _parent(changed, path)[path[-1]] = bad
            yield changed
        changed = deepcopy(body)
        parent = _parent(changed, path)
        value = parent.pop(path[-1])
        yield changed
        if isinstance(parent, dict):
            for key in ("", "\0", "x" * 300):
                again = deepcopy(changed)
                _parent(again, path)[key] = value
                yield again


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for key, item in children:
        yield (*above, key)
        yield from _places(item, (*above, key))


def _parent(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


async def test_each_part_of_each_body_is_spoiled(attack: Attack) -> None:
    for operation in operations(attack.server.routes):
        if not BODIES.get(operation.name):
            continue
        user = await attack.actor(operation)
        # where a password is hashed for each request, some must do
        step = 5 if "auth" in BODIES[operation.name] else 1
        for bad in islice(spoiled(operation.body(attack.filled(user))), 0, None, step):
            user = await attack.actor(operation)
            path = operation.path(attack.filled(user))
            await attack.check(operation, path, orjson.dumps(bad), user)


async def test_missing_and_false_tokens(attack: Attack) -> None:
    server = attack.server
    for route in server.routes:
        if route.auth is not Auth.USER:
            continue
        operation = Operation(route.method, route.template)
        filled = attack.filled(attack.scene.alice)
        path, body = operation.path(filled), operation.body(filled)
        before = await server.rows()
        missing = await server.call(route.method, path, body)
        assert (missing.status, missing.errcode) == (401, "M_MISSING_TOKEN"), operation
        for header in ("Bearer x", "Bearer " + "x" * 5000, "Bearer \xff", "Bearer x\ty"):
            false = await server.call(route.method, path, body, headers={"Authorization": header})
            assert (false.status, false.errcode) == (401, "M_UNKNOWN_TOKEN"), (operation, header)
        query = await server.call(route.method, f"{path}?access_token=x", body)
        assert (query.status, query.errcode) == (401, "M_UNKNOWN_TOKEN"), operation
        assert await server.rows() == before


async def test_every_path_has_its_methods_alone(attack: Attack) -> None:
    server = attack.server
    for operation in operations(server.routes):
        path = operation.path(attack.filled(attack.scene.alice))
        for method in ("PATCH", "PROPFIND"):
            reply = await server.call(method, path, by=attack.scene.alice)
            assert (reply.status, reply.errcode) == (405, "M_UNRECOGNIZED")
        preflight = await server.call("OPTIONS", path)
        assert preflight.status == 200
        assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    unknown = await server.call("GET", "/_matrix/client/v3/no/such/thing")
    assert (unknown.status, unknown.errcode) == (404, "M_UNRECOGNIZED")


_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["@alice:here.example", "!room:here.example", "$event", "*", "m.room.member"]),
)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=15,
)


@given(data=st.data())
@settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_bodies_spoiled_at_random(attack: Attack, data: st.DataObject) -> None:
    costly = {name for name, body in BODIES.items() if "auth" in body or "password" in body}
    found = [
        operation
        for operation in operations(attack.server.routes)
        if BODIES.get(operation.name) and operation.name not in costly
    ]
    operation = data.draw(st.sampled_from(found))
    user = await attack.actor(operation)
    body = operation.body(attack.filled(user))
    for _ in range(data.draw(st.integers(1, 3))):
        places = list(_places(body))
        if places:
            place = data.draw(st.sampled_from(places))
            _parent(body, place)[place[-1]] = data.draw(_JSON)
    try:
        encoded = json.dumps(body).encode()
    except ValueError:
        return
    await attack.check(operation, operation.path(attack.filled(user)), encoded, user)
