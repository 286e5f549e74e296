"""The database dies, is cut off, or stalls: bounded waits, nothing acknowledged lost or doubled.

No server is restarted here but where its end is what is tested.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio

from lab.running import LabError
from tests.faults.conftest import NewPerson
from tests.faults.database_proxy import DatabaseProxy
from tests.faults.person import (
    Answer,
    JsonObject,
    Person,
    everyone_has_all_once,
    send_all,
    send_until_it_fails,
)
from tests.faults.servers import Cluster, running_cluster, until

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("all_up_again"),
]

GIVEN_UP = "a commit failed, the database is away"
DUMMY = {"type": "m.login.dummy"}
BOUND_S = 8.0
"""Longer than any request may take with the shortened limits (`servers.SHORTER`)."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(module_folder: Path) -> AsyncIterator[Cluster]:
    """Yield three servers, the first one with a proxy before its database."""
    async with running_cluster(module_folder, 3, behind_proxy=["hs1"]) as cluster:
        yield cluster


@pytest.fixture
def proxy(cluster: Cluster) -> DatabaseProxy:
    """Return what is between hs1 and its database."""
    [proxy] = cluster.database.proxies.values()
    return proxy


async def seconds_to_refuse(person: Person, room_id: str, body: str) -> float:
    """Send something that can't be stored now; return the seconds until the 503."""
    began = time.monotonic()
    answer = await person.send(room_id, body)
    assert answer.status == 503, answer
    assert int(answer.retry_after) >= 1
    assert answer.body["errcode"] == "M_UNKNOWN"
    return time.monotonic() - began


async def all_kinds_of_requests(person: Person, room_id: str) -> dict[str, Answer]:
    """Make requests of many kinds at once; return the answers by method and path."""
    room, user = f"/rooms/{quote(room_id)}", quote(person.user_id)
    requests: list[tuple[str, str, JsonObject | None]] = [
        ("GET", "/sync", None),
        ("GET", "/account/whoami", None),
        ("GET", "/joined_rooms", None),
        ("GET", "/devices", None),
        ("GET", f"/profile/{user}", None),
        ("GET", f"{room}/messages?dir=b&limit=1000", None),
        ("GET", f"{room}/members", None),
        ("GET", f"{room}/state", None),
        ("GET", f"{room}/event/$nothing", None),
        ("GET", "/directory/room/%23nothing:hs1", None),
        ("PUT", f"{room}/state/m.room.topic/", {"topic": "t"}),
        ("PUT", f"{room}/typing/{user}", {"typing": True, "timeout": 1000}),
        ("PUT", f"/user/{user}/account_data/org.example", {"a": 1}),
        ("PUT", f"/profile/{user}/displayname", {"displayname": "new"}),
        ("PUT", "/sendToDevice/org.example/1", {"messages": {person.user_id: {"*": {}}}}),
        ("POST", "/keys/query", {"device_keys": {person.user_id: []}}),
        ("POST", "/keys/claim", {"one_time_keys": {person.user_id: {"X": "signed_curve25519"}}}),
        ("POST", f"/user/{user}/filter", {"room": {"timeline": {"limit": 7}}}),
        ("POST", "/createRoom", {"preset": "public_chat"}),
        ("POST", f"{room}/invite", {"user_id": "@nobody:hs1"}),
        ("POST", f"{room}/receipt/m.read/$nothing", {}),
        ("POST", "/register", {"username": "new", "password": "p", "auth": DUMMY}),
        ("POST", "/login", login_of(person)),
    ]
    answers = await asyncio.gather(*(person.call(*request) for request in requests))
    paths = [f"{method} {path}" for method, path, _ in requests]
    return dict(zip(paths, answers, strict=True))


def login_of(person: Person) -> JsonObject:
    """Return a log-in by password."""
    name = person.user_id[1:].partition(":")[0]
    identifier = {"type": "m.id.user", "user": name}
    return {"type": "m.login.password", "identifier": identifier, "password": "p4ss-" + name}


async def check_all_kinds_of_requests(person: Person, room_id: str) -> None:
    """Whatever is asked is answered in time: from memory, or with 503 and Retry-After."""
    began = time.monotonic()
    answers = await all_kinds_of_requests(person, room_id)
    assert time.monotonic() - began < BOUND_S
    bad = {
        path: answer
        for path, answer in answers.items()
        if answer.status not in (200, 400, 403, 404)
        and not (answer.status == 503 and answer.retry_after)
    }
    assert not bad
    assert sum(answer.status == 503 for answer in answers.values()) > 10


async def test_a_killed_database_loses_and_doubles_nothing(
    cluster: Cluster, new_person: NewPerson
) -> None:
    """It dies with 200 concurrent sends under way and stays down for a while: requests are
    refused in bounded time. When it is back, work goes on.

    Seen to fail when messages were published before they were written, when rooms kept what was
    staged on a failed commit, and when a lost database was answered as an error of ours (500).
    """
    people = [await new_person("p", name) for name in ("hs1", "hs2", "hs3")]
    alice = people[0]
    room_id = await alice.create_room(people[1:])
    bodies, failures = await send_until_it_fails(alice, room_id, 200, cluster.database.kill)
    assert {answer.status for answer in failures} == {503}
    assert all(answer.retry_after for answer in failures)
    acknowledged = dict(alice.acknowledged)

    for person in people:
        assert await seconds_to_refuse(person, room_id, f"down {person.user_id}") < BOUND_S
    await check_all_kinds_of_requests(alice, room_id)

    await cluster.database.restart()
    await asyncio.gather(*(alice.send_until_answered(room_id, body) for body in bodies))
    assert acknowledged.items() <= alice.acknowledged.items()
    await everyone_has_all_once(people, room_id, bodies)
    for person in people[1:]:
        await person.send_until_answered(room_id, f"after {person.user_id}")
        await alice.until_has(room_id, [f"after {person.user_id}"])


async def test_the_supervisor_brings_a_killed_database_back_and_clients_go_on(
    cluster: Cluster, new_person: NewPerson
) -> None:
    """Clients that repeat what was refused need nothing else.

    Seen to fail when the log's connection wasn't made anew.
    """
    people = [await new_person("p", name) for name in ("hs1", "hs2")]
    alice = people[0]
    room_id = await alice.create_room(people[1:])
    bodies = [f"m{i}" for i in range(50)]
    sending = [alice.send_until_answered(room_id, body) for body in bodies]
    await asyncio.gather(cluster.database.kill_under_supervisor(), *sending)
    await everyone_has_all_once(people, room_id, bodies)


async def test_a_connection_cut_between_commit_and_its_answer_doubles_nothing(
    cluster: Cluster, new_person: NewPerson, proxy: DatabaseProxy
) -> None:
    """PostgreSQL committed, the server didn't hear it. It finds out before it answers: a message
    (one statement), a state event (a transaction), and many sends at once.

    Seen to fail when a lost connection counted as a failed commit.
    """
    people = [await new_person("p", name) for name in ("hs1", "hs2")]
    alice = people[0]
    room_id = await alice.create_room(people[1:])
    cuts = proxy.cuts

    proxy.cut_after_commits(1)
    assert (await alice.send(room_id, "message")).status == 200
    assert proxy.cuts == cuts + 1

    proxy.cut_after_commits(1)
    path = f"/rooms/{quote(room_id)}/state/m.room.topic/"
    topic = await alice.must("PUT", path, {"topic": "cut"})
    assert proxy.cuts == cuts + 2
    assert await alice.must("GET", path) == {"topic": "cut"}
    assert (await alice.must("PUT", path, {"topic": "cut"})) == topic

    proxy.cut_after_commits(3)
    bodies = [f"m{i}" for i in range(60)]
    answers = await send_all(alice, [room_id], bodies)
    assert {answer.status for answer in answers.values()} == {200}
    proxy.cut_after_commits(0)
    assert proxy.cuts > cuts + 2
    await everyone_has_all_once(people, room_id, ["message", *bodies])


async def test_a_stalled_database_is_a_bounded_wait_and_then_work_goes_on(
    cluster: Cluster, new_person: NewPerson, proxy: DatabaseProxy
) -> None:
    """Nothing passes for some seconds. Sends are answered with 503, their transaction IDs stay
    theirs: a repeat gets the one event, whether the first try came through or not.

    Seen to fail when each of a device's requests read its transaction IDs by itself, one after the
    other: waits added up.
    """
    people = [await new_person("p", name) for name in ("hs1", "hs2")]
    alice = people[0]
    room_id = await alice.create_room(people[1:])
    eve = await new_person("p", "hs1")  # nothing of hers is in memory
    await eve.join(room_id, "hs1")
    bodies = ["warm", *(f"m{i}" for i in range(30))]
    await alice.send(room_id, "warm")
    proxy.stall()
    try:
        refused = [seconds_to_refuse(alice, room_id, body) for body in bodies[1:]]
        refused += [seconds_to_refuse(eve, room_id, f"cold {body}") for body in bodies]
        assert max(await asyncio.gather(*refused)) < BOUND_S
        assert await seconds_to_refuse(alice, room_id, "more") < BOUND_S
        assert await seconds_to_refuse(alice, room_id, bodies[1]) < BOUND_S
        await check_all_kinds_of_requests(alice, room_id)
    finally:
        proxy.resume()
    for body in ["more", *bodies]:
        await alice.send_until_answered(room_id, body)
    await everyone_has_all_once(people, room_id, ["more", *bodies])


async def test_a_commit_that_succeeds_after_its_503_is_what_a_repeat_gets(
    cluster: Cluster, new_person: NewPerson, proxy: DatabaseProxy
) -> None:
    """The stall ends before the server gives the commit up, after it answered that it doesn't know
    yet.

    Seen to fail when nobody was answered before the outcome was known (a wait without bound), and
    when the 503 gave the transaction ID free.
    """
    people = [await new_person("p", name) for name in ("hs1", "hs2")]
    alice = people[0]
    room_id = await alice.create_room(people[1:])
    await alice.send(room_id, "before")  # what sends need is in memory
    bodies = [f"m{i}" for i in range(20)]
    given_up = cluster.log_of("hs1").count(GIVEN_UP)
    proxy.stall()
    try:
        await asyncio.gather(*(seconds_to_refuse(alice, room_id, body) for body in bodies))
    finally:
        proxy.resume()
    history = await alice.until_has(room_id, ["before", *bodies])
    assert cluster.log_of("hs1").count(GIVEN_UP) == given_up
    for body in bodies:
        await alice.send_until_answered(room_id, body)
    assert {body: event_id for event_id, body in history} == alice.acknowledged
    await everyone_has_all_once(people, room_id, ["before", *bodies])


async def test_a_statement_that_arrives_after_it_was_given_up_changes_nothing(
    cluster: Cluster, new_person: NewPerson, proxy: DatabaseProxy
) -> None:
    """The network holds a commit back until the server has asked, over a new connection, whether
    it is in, and has gone on. Then it is delivered: too late.

    Seen to fail when the lost session wasn't ended before the log's row was read.
    """
    people = [await new_person("p", name) for name in ("hs1", "hs2")]
    alice = people[0]
    room_id = await alice.create_room(people[1:])
    await alice.send(room_id, "before")
    known = cluster.log_of("hs1").count(GIVEN_UP)
    proxy.hold_existing()
    try:
        await seconds_to_refuse(alice, room_id, "late")

        async def is_given_up() -> bool:
            return cluster.log_of("hs1").count(GIVEN_UP) > known

        await until(is_given_up, "the server gives the commit up")
    finally:
        proxy.resume()
    await alice.send_until_answered(room_id, "next")
    await alice.send_until_answered(room_id, "late")
    await everyone_has_all_once(people, room_id, ["before", "next", "late"])


@pytest.mark.parametrize("is_dead", [True, False])
async def test_a_server_without_its_database_ends_soon_and_well(
    cluster: Cluster, new_person: NewPerson, proxy: DatabaseProxy, is_dead: bool
) -> None:
    """Dead or stalled, with sends under way. What was acknowledged before is there after.

    Seen to fail, stalled, when each step of a stop had its own bound only (7 s).
    """
    alice = await new_person("p", "hs1")
    room_id = await alice.create_room()
    await alice.send(room_id, "before")
    if is_dead:
        await cluster.database.kill()
    else:
        proxy.stall()
    bodies = [f"m{i}" for i in range(20)]
    sending = asyncio.ensure_future(send_all(alice, [room_id], bodies))
    await asyncio.sleep(0)
    status, seconds = await cluster.end("hs1", signal.SIGTERM)
    assert status == 0
    assert seconds < 5
    assert {answer.status for answer in (await sending).values()} <= {0, 503}
    if is_dead:
        with pytest.raises(LabError, match="status 1"):
            await cluster.start("hs1")
        await cluster.database.restart()
    proxy.resume()
    await cluster.start("hs1")
    for body in ["before", *bodies]:
        await alice.send_until_answered(room_id, body)
    await everyone_has_all_once([alice], room_id, ["before", *bodies])
