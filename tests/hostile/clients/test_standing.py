"""What locked users, suspended users and guests may do, over every route of the table.

An operation that isn't in a table below is refused, whatever is sent to it, and stores nothing. So
a new route is closed to them until somebody writes down why it is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio

from homeserver.api.http.routes import Auth
from homeserver.storage.accounts.moderation import AccountMark, ModerationTable
from homeserver.storage.database import Database
from tests.faults.servers import until
from tests.hostile.clients.conftest import Scene
from tests.hostile.clients.operations import SPENT_BY, Operation, operations
from tests.hostile.clients.running_server import Reply, Server, User

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOCKED_MAY: Mapping[str, str] = {
    "POST /logout": "the specification names it",
    "POST /logout/all": "the specification names it",
}
WARNS = "who reads something harmful can say so, whoever they are"
OWN = "the user's own settings, which nobody else sees"
SUSPENDED_MAY: Mapping[str, str] = {
    **LOCKED_MAY,
    "DELETE /devices/{deviceId}": "the specification names it",
    "POST /delete_devices": "the specification names it",
    "POST /account/deactivate": "the specification names it",
    "POST /account/password": "keeps the account its owner's",
    "POST /rooms/{roomId}/leave": "the specification names it",
    "POST /rooms/{roomId}/forget": "what is left can be forgotten",
    "PUT /rooms/{roomId}/redact/{eventId}/{txnId}": "the specification names it: of own events",
    "POST /keys/upload": "devices are verified, and read encrypted rooms",
    "POST /keys/query": "devices are verified",
    "POST /keys/claim": "own devices send each other keys",
    "POST /keys/device_signing/upload": "the specification names cross-signing data",
    "POST /keys/signatures/upload": "the specification names cross-signing data",
    "PUT /sendToDevice/{eventType}/{txnId}": "verification: to the user's own devices",
    **{
        f"{operation} /org.matrix.msc3814.v1/dehydrated_device{rest}": "as key backups"
        for operation, rest in (("PUT", ""), ("DELETE", ""), ("POST", "/{deviceId}/events"))
    },
    "POST /room_keys/version": "the specification names key backups",
    "PUT /room_keys/version/{version}": "the specification names key backups",
    "DELETE /room_keys/version/{version}": "the specification names key backups",
    **{
        f"{method} /room_keys/keys{rest}": "the specification names key backups"
        for method in ("PUT", "DELETE")
        for rest in ("", "/{roomId}", "/{roomId}/{sessionId}")
    },
    "POST /user/{userId}/filter": "filters are for reading",
    "POST /rooms/{roomId}/receipt/{receiptType}/{eventId}": "what was read is no news again",
    "POST /rooms/{roomId}/read_markers": "what was read is no news again",
    "PUT /user/{userId}/account_data/{type}": OWN,
    "PUT /user/{userId}/rooms/{roomId}/account_data/{type}": OWN,
    "PUT /user/{userId}/rooms/{roomId}/tags/{tag}": OWN,
    "DELETE /user/{userId}/rooms/{roomId}/tags/{tag}": OWN,
    "POST /publicRooms": "reads, in spite of its method",
    "POST /user_directory/search": "reads, in spite of its method",
    "POST /search": "likewise",
    "POST /rooms/{roomId}/report": WARNS,
    "POST /rooms/{roomId}/report/{eventId}": WARNS,
    "POST /users/{userId}/report": WARNS,
    "POST /login/get_token": "the specification lets suspended users log in on more devices",
    "PUT /pushrules/global/{kind}/{ruleId}": OWN,
    "DELETE /pushrules/global/{kind}/{ruleId}": OWN,
    "PUT /pushrules/global/{kind}/{ruleId}/enabled": OWN,
    "PUT /pushrules/global/{kind}/{ruleId}/actions": OWN,
}
"""Beside every GET: a suspended user may read all that they could."""

NAMED = "the specification's table of guests has it"
SYNCS = "a client that syncs can't do without it"
GUESTS_MAY: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "GET /rooms/{roomId}/state",
            "GET /rooms/{roomId}/context/{eventId}",
            "GET /rooms/{roomId}/event/{eventId}",
            "GET /rooms/{roomId}/state/{eventType}/{stateKey}",
            "GET /rooms/{roomId}/state/{eventType}",
            "GET /rooms/{roomId}/messages",
            "GET /rooms/{roomId}/members",
            "GET /rooms/{roomId}/initialSync",
            "GET /sync",
            "GET /events",
            "GET /media/download/{serverName}/{mediaId}",
            "GET /media/download/{serverName}/{mediaId}/{fileName}",
            "GET /media/thumbnail/{serverName}/{mediaId}",
            "POST /rooms/{roomId}/join",
            "POST /rooms/{roomId}/leave",
            "PUT /rooms/{roomId}/send/{eventType}/{txnId}",
            "PUT /rooms/{roomId}/state/{eventType}/{stateKey}",
            "PUT /rooms/{roomId}/state/{eventType}",
            "PUT /sendToDevice/{eventType}/{txnId}",
            "PUT /profile/{userId}/{keyName}",
            "DELETE /profile/{userId}/{keyName}",
            "PUT /uk.tcpip.msc4133/profile/{userId}/{keyName}",
            "DELETE /uk.tcpip.msc4133/profile/{userId}/{keyName}",
            "GET /devices",
            "GET /devices/{deviceId}",
            "PUT /devices/{deviceId}",
            "GET /account/whoami",
            "POST /keys/upload",
            "POST /keys/query",
            "POST /keys/claim",
        ),
        NAMED,
    ),
    "GET /capabilities": "says what the server can do, of no user",
    "GET /voip/turnServer": SYNCS,
    "GET /thirdparty/protocols": SYNCS,
    "GET /keys/changes": "belongs to the encryption that the table names",
    "POST /user/{userId}/filter": SYNCS,
    "GET /user/{userId}/filter/{filterId}": SYNCS,
    "GET /rooms/{roomId}/joined_members": "a part of /members",
    "GET /joined_rooms": "a part of /sync",
    "POST /join/{roomIdOrAlias}": "joins, as /rooms/{roomId}/join does",
    "POST /rooms/{roomId}/forget": "what is left can be forgotten",
    "GET /publicRooms": "open to everybody without an account",
    "POST /publicRooms": "GET is open to everybody without an account",
    **dict.fromkeys(
        (
            "GET /room_summary/{roomIdOrAlias}",
            "GET /im.nheko.summary/summary/{roomIdOrAlias}",
            "GET /im.nheko.summary/rooms/{roomIdOrAlias}/summary",
        ),
        "open to everybody without an account",
    ),
    "POST /rooms/{roomId}/receipt/{receiptType}/{eventId}": SYNCS,
    "POST /rooms/{roomId}/read_markers": SYNCS,
    "PUT /rooms/{roomId}/typing/{userId}": "goes with the messages that guests send",
    "GET /user/{userId}/account_data/{type}": OWN,
    "PUT /user/{userId}/account_data/{type}": OWN,
    "GET /user/{userId}/rooms/{roomId}/account_data/{type}": OWN,
    "PUT /user/{userId}/rooms/{roomId}/account_data/{type}": OWN,
    "GET /user/{userId}/rooms/{roomId}/tags": OWN,
    "PUT /user/{userId}/rooms/{roomId}/tags/{tag}": OWN,
    "DELETE /user/{userId}/rooms/{roomId}/tags/{tag}": OWN,
    "POST /logout": "ends the session",
    "POST /logout/all": "ends the sessions",
}


class Person:
    """Users of one kind: one for all operations, and one more for each that logs out."""

    def __init__(self, scene: Scene, database: Database) -> None:
        self.scene, self.server, self._database = scene, scene.server, database
        self._number = 0

    async def make(self, mark: AccountMark | None) -> User:
        """A new user with a mark, or a guest."""
        self._number += 1
        if mark is None:
            found = await self.server.ok("POST", "/register?kind=guest", {})
            return User(found["user_id"], found["access_token"], found["device_id"])
        user = await self.server.register(f"{mark.name.lower()}{self._number}")
        await self.set(user, mark)
        return user

    async def set(self, user: User, mark: AccountMark) -> None:
        """Marks a user as the operator's command does; returns once the server goes by it."""
        await ModerationTable(self._database).set(user.user_id, mark, True)  # type: ignore[arg-type]
        self.server.services.accounts.tokens.forget_all()

    def filled(self, user: User) -> dict[str, str]:
        """What placeholders stand for: wherever another user could stand, the user's own ID."""
        return {
            "room": self.scene.room_id,
            "event": self.scene.event_id,
            "me": user.user_id,
            "other": user.user_id,
            "device": user.device_id,
            "fresh": f"fresh-{self._number}",
        }

    async def asks(self, operation: Operation, user: User) -> Reply:
        """A valid request of the operation."""
        filled = self.filled(user)
        body = operation.body(filled)
        query = "&".join(f"{key}={value}" for key, value in operation.query().items() if value)
        path = f"{operation.path(filled)}?{query}" if query else operation.path(filled)
        return await self.server.call(operation.method, path, body, by=user)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def person(scene: Scene, module_database: str) -> AsyncIterator[Person]:
    """The room of the scene lets guests in."""
    path = f"/rooms/{scene.room_id}/state/m.room.guest_access"
    await scene.server.ok("PUT", path, {"guest_access": "can_join"}, by=scene.alice)
    database = await Database.open(module_database, connections=1)
    yield Person(scene, database)
    await database.close()


def asking(server: Server) -> list[Operation]:
    """The operations that an access token belongs to; those that end the session come last."""
    without = (Auth.NONE, Auth.APPSERVICE)
    with_token = {
        (route.method, route.template) for route in server.routes if route.auth not in without
    }
    found = [one for one in operations(server.routes) if (one.method, one.template) in with_token]
    return sorted(found, key=lambda one: one.template.endswith(tuple(SPENT_BY)))


async def check(
    person: Person, mark: AccountMark | None, may: Mapping[str, str], refusal: tuple[int, str]
) -> None:
    """Tries every operation, and compares with the table."""
    server, found = person.server, asking(person.server)
    user = await person.make(mark)
    before = await server.rows()
    opened = set()
    for operation in found:
        if operation.name in may:
            continue
        reply = await person.asks(operation, user)
        if (reply.status, reply.errcode) != refusal:
            opened.add(operation.name)
    assert not opened, "open without a reason in the table"
    assert await server.rows() == before
    for operation in found:
        if operation.name not in may:
            continue
        if operation.template.endswith(tuple(SPENT_BY)):
            user = await person.make(mark)
        reply = await person.asks(operation, user)
        assert (reply.status, reply.errcode) != refusal, operation
        assert reply.status < 500, (operation, reply)


async def test_locked_users_log_out_and_nothing_else(person: Person) -> None:
    await check(person, AccountMark.LOCKED, LOCKED_MAY, (401, "M_USER_LOCKED"))


async def test_suspended_users_read_and_leave(person: Person) -> None:
    reads = {one.name: "reads" for one in asking(person.server) if one.method == "GET"}
    may = {**SUSPENDED_MAY, **reads}
    await check(person, AccountMark.SUSPENDED, may, (403, "M_USER_SUSPENDED"))


async def test_guests_do_what_the_table_says(person: Person) -> None:
    await check(person, None, GUESTS_MAY, (403, "M_GUEST_ACCESS_FORBIDDEN"))


async def test_a_sync_that_waits_gives_nothing_to_who_is_locked_meanwhile(person: Person) -> None:
    server, room_id = person.server, person.scene.room_id
    user = await server.register("waiter")
    await server.ok("POST", f"/join/{room_id}", {}, by=user)
    answers: list[Reply] = []

    async def follow() -> None:
        """Syncs until it is refused: what the join changed may still be told."""
        since = (await server.sync(user))["next_batch"]
        while not answers or answers[-1].status == 200:
            path = f"/sync?since={since}&timeout={30_000}"
            answers.append(await server.call("GET", path, by=user))
            since = answers[-1].body.get("next_batch")

    async with asyncio.TaskGroup() as group:
        group.create_task(follow())

        async def is_waiting() -> bool:
            return user.user_id in server.services.engine.fanout._waiting

        await until(is_waiting, "the sync waits")
        await person.set(user, AccountMark.LOCKED)

        async def is_noticed() -> bool:
            return (await server.call("GET", "/account/whoami", by=user)).status == 401

        await until(is_noticed, "the lock is noticed")
        await server.send(person.scene.alice, room_id, "news", "a secret")
    assert (answers[-1].status, answers[-1].errcode) == (401, "M_USER_LOCKED")
    assert "secret" not in str([answer.body for answer in answers])


async def test_suspended_users_redact_their_own_events_alone(person: Person) -> None:
    server, room_id = person.server, person.scene.room_id
    user = await server.register("redactor")
    await server.ok("POST", f"/join/{room_id}", {}, by=user)
    own = await server.send(user, room_id, "t")
    await person.set(user, AccountMark.SUSPENDED)
    path = f"/rooms/{room_id}/redact"
    assert (await server.call("PUT", f"{path}/{own}/1", {}, by=user)).status == 200
    for number, event_id in enumerate((person.scene.event_id, "$" + "a" * 43)):
        reply = await server.call("PUT", f"{path}/{event_id}/x{number}", {}, by=user)
        assert (reply.status, reply.errcode) == (403, "M_USER_SUSPENDED")
    message = await server.call("PUT", f"/rooms/{room_id}/send/m.x/1", {}, by=user)
    assert (message.status, message.errcode) == (403, "M_USER_SUSPENDED")
    assert (await server.call("POST", f"/rooms/{room_id}/leave", {}, by=user)).status == 200


async def test_suspended_users_reach_their_own_devices_alone(person: Person) -> None:
    server = person.server
    user = await person.make(AccountMark.SUSPENDED)
    path = "/sendToDevice/m.key.verification.start"
    own = {"messages": {user.user_id: {"*": {"a": 1}}}}
    assert (await server.call("PUT", f"{path}/1", own, by=user)).status == 200
    both = {"messages": {**own["messages"], person.scene.bob.user_id: {"*": {"a": 1}}}}
    reply = await server.call("PUT", f"{path}/2", both, by=user)
    assert (reply.status, reply.errcode) == (403, "M_USER_SUSPENDED")
