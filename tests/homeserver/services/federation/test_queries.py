"""What other servers may ask and say."""

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from federation.errors import MatrixError
from federation.events.ids import DeviceId, EventId, RoomAlias, RoomId, ServerName, UserId
from federation.ports import EduSink, UserQueries
from federation.transport.joining.arrivals import Arrivals
from homeserver import limits
from homeserver.app.domains.ephemeral import make_ephemeral
from homeserver.app.domains.federation import ServedDomains, make_federation
from homeserver.engine.entries import DeviceListEntry, ReceiptEntry, ToDeviceEntry
from homeserver.engine.followers.memberships import UserRoom
from homeserver.services.rooms.directory import Target
from homeserver.services.timeline.event_times import EventTimesForServers
from homeserver.storage.accounts.profiles import ProfileTable
from homeserver.storage.database import Database
from tests.federation.transport.memory_listings import MemoryListings
from tests.federation.transport.memory_media import MemoryMedia
from tests.federation.transport.memory_outside import OpenGate
from tests.homeserver.device_world import (
    ALICE,
    ANNA,
    BOB,
    HERE,
    PHONE,
    ROOM,
    THERE,
    Clock,
    Log,
    Remote,
    Rooms,
    device_keys,
    encryption_of,
    engine_of,
    one_time_keys,
    signed_key,
)
from tests.homeserver.presence_world import UP

ELSEWHERE = RoomId("!room:there.test")
ALGORITHM = "signed_curve25519"
MALLORY = UserId("@mallory:elsewhere.test")


async def directory(alias: RoomAlias) -> Target:
    return Target(ROOM, [HERE])


class World:
    def __init__(self, database: Database) -> None:
        log, self.rooms, remote, self.clock = Log(database), Rooms(), Remote(), Clock()
        self.log, self.arrivals = log, Arrivals()
        encryption = encryption_of(database, log, self.rooms, remote=remote, clock=self.clock)
        engine = engine_of(log, self.rooms, self.clock)
        ephemeral = make_ephemeral(engine, database, lambda _servers, _edu: None, UP)
        self.keys, self.typing = encryption.keys, ephemeral.typing
        services = make_federation(
            engine_of(log, self.rooms, self.clock),
            database,
            encryption,
            ephemeral,
            directory=cast(Any, SimpleNamespace(resolve_local=directory)),
            arrivals=self.arrivals,
            served=ServedDomains(
                OpenGate(), MemoryMedia(), MemoryListings(), EventTimesForServers(database)
            ),
        )
        self.queries, self.edus = services.queries, services.edus

    async def sees(self) -> bool:
        """Does the other server see Alice's devices and get a key of hers?"""

        async def query() -> object:
            return (await self.queries.keys_query(THERE, {ALICE: []}))["device_keys"]

        async def claim() -> object:
            asked = {ALICE: {PHONE: ALGORITHM}}
            return (await self.queries.keys_claim(THERE, asked))["one_time_keys"]

        async def devices() -> object:
            return (await self.queries.devices(THERE, ALICE)).devices

        answers = set()
        for ask in (query, claim, devices):
            try:
                answers.add(bool(await ask()))
            except MatrixError as refused:
                answers.add(refused.status != 403)
        (answer,) = answers
        return answer


@pytest.fixture
async def world(device_database: Database) -> World:
    made = World(device_database)
    async with device_database.connection() as connection:
        await connection.execute(
            "INSERT INTO accounts (user_id, created_ms) VALUES ($1, 0) ON CONFLICT DO NOTHING",
            ALICE,
        )
    name = orjson.dumps("Alice")
    await ProfileTable(device_database).save(ALICE, "displayname", name, bytes_max=100)
    upload = {
        "device_keys": device_keys(ALICE, PHONE),
        "one_time_keys": one_time_keys(*range(9)),
        "fallback_keys": {
            "signed_curve25519:F": signed_key(70, ALICE, PHONE, fallback=True),
        },
    }
    await made.keys.upload(ALICE, PHONE, upload)
    return made


async def test_the_services_are_what_federation_asks_for(world: World) -> None:
    queries: UserQueries = world.queries
    edus: EduSink = world.edus
    assert (queries, edus) == (world.queries, world.edus)


async def test_a_server_that_shares_a_room_sees_keys(world: World) -> None:
    world.rooms.put(ROOM, ALICE, ANNA)
    assert not await world.sees()
    world.rooms.put(ROOM, ALICE, BOB)
    assert await world.sees()


async def test_an_invite_or_knock_is_enough(world: World) -> None:
    def room(membership: str, sender: UserId) -> dict[RoomId, UserRoom]:
        return {ELSEWHERE: UserRoom(membership, 1, EventId("$i"), sender)}

    world.rooms.invites[ALICE] = room("invite", MALLORY)
    assert not await world.sees()
    one_time = (await world.keys.counts(ALICE, PHONE)).one_time
    world.rooms.invites[ALICE] = room("invite", BOB)
    assert await world.sees()
    world.rooms.put(ELSEWHERE, BOB)
    assert await world.sees()
    assert (await world.keys.counts(ALICE, PHONE)).one_time == one_time, "fallback keys alone"
    world.rooms.invites[ALICE] = room("knock", ALICE)
    assert await world.sees()
    assert (await world.keys.counts(ALICE, PHONE)).one_time == {ALGORITHM: one_time[ALGORITHM] - 1}
    for membership in ("leave", "ban"):
        world.rooms.invites[ALICE] = room(membership, BOB)
        assert not await world.sees()


async def test_a_join_that_is_being_stored_is_waited_for(world: World) -> None:
    sleep = world.clock.sleep

    async def sleep_then_join(seconds: float) -> None:
        await sleep(seconds)
        world.rooms.put(ROOM, ALICE, BOB)

    world.clock.sleep = sleep_then_join  # type: ignore[method-assign]
    assert (await world.queries.devices(THERE, ALICE)).devices


@pytest.mark.parametrize("is_joining", [False, True])
async def test_the_wait_before_a_refusal_is_bounded(world: World, is_joining: bool) -> None:
    most = limits.KEY_QUERY_JOIN_WAIT_S if is_joining else limits.KEY_QUERY_WAIT_S
    before = world.clock.seconds
    with (
        world.arrivals.joining(ROOM, ALICE if is_joining else ANNA),
        pytest.raises(MatrixError, match="403 M_FORBIDDEN"),
    ):
        await world.queries.devices(THERE, ALICE)
    assert most <= world.clock.seconds - before < most + 2 * limits.KEY_QUERY_CHECK_S


async def test_the_wait_ends_with_the_join(world: World) -> None:
    sleep, before = world.clock.sleep, world.clock.seconds
    with ExitStack() as way:
        way.enter_context(world.arrivals.joining(ROOM, ALICE))

        async def sleep_once(seconds: float) -> None:
            await sleep(seconds)
            way.close()

        world.clock.sleep = sleep_once  # type: ignore[method-assign]
        with pytest.raises(MatrixError):
            await world.queries.devices(THERE, ALICE)
    assert world.clock.seconds - before < limits.KEY_QUERY_WAIT_S + 2 * limits.KEY_QUERY_CHECK_S


async def claimed(world: World, origin: ServerName = THERE) -> str:
    """The kind of the key that a claim gives of Alice."""
    found = await world.queries.keys_claim(origin, {ALICE: {PHONE: ALGORITHM}})
    ((key,),) = [devices[PHONE].values() for devices in found["one_time_keys"].values()]
    return "fallback" if key.get("fallback") else "one-time"


async def test_the_server_that_a_join_goes_through_gets_one_time_keys_before_the_join_is_stored(
    world: World,
) -> None:
    """Its users see the join at once, and encrypt for the one who joins."""
    world.rooms.invites[ALICE] = {ELSEWHERE: UserRoom("invite", 1, EventId("$i"), BOB)}
    before = world.clock.seconds
    assert await claimed(world) == "fallback"
    with world.arrivals.joining(ELSEWHERE, ANNA) as another:
        another.asked.add(THERE)
        assert await claimed(world) == "fallback"
    assert world.clock.seconds == before, "a server that has only invited doesn't wait"
    with world.arrivals.joining(ELSEWHERE, ALICE) as arrival:
        arrival.asked.add(THERE)
        assert await claimed(world) == "one-time"
    assert world.clock.seconds == before
    assert await claimed(world) == "fallback"


async def test_a_server_sees_who_joins_through_it_without_an_invite(world: World) -> None:
    before = world.clock.seconds
    with world.arrivals.joining(ELSEWHERE, ALICE) as arrival:
        arrival.asked.add(THERE)
        assert await world.sees()
    assert world.clock.seconds == before


async def test_another_server_of_the_room_waits_for_the_join(world: World) -> None:
    """It may have heard of the join from the server that the join goes through."""
    world.rooms.invites[ALICE] = {ELSEWHERE: UserRoom("invite", 1, EventId("$i"), BOB)}
    sleep = world.clock.sleep
    with ExitStack() as way:
        way.enter_context(world.arrivals.joining(ELSEWHERE, ALICE)).asked.add(
            ServerName("elsewhere.test")
        )

        async def sleep_then_join(seconds: float) -> None:
            await sleep(seconds)
            world.rooms.put(ELSEWHERE, ALICE, BOB)
            way.close()

        world.clock.sleep = sleep_then_join  # type: ignore[method-assign]
        assert await claimed(world) == "one-time"


async def test_a_join_that_is_stored_while_the_server_looks_is_seen(world: World) -> None:
    """It is no longer on its way then, and wasn't there yet."""
    world.rooms.invites[ALICE] = {ELSEWHERE: UserRoom("invite", 1, EventId("$i"), BOB)}
    of, looks = world.rooms.of, 0
    with ExitStack() as way:
        way.enter_context(world.arrivals.joining(ELSEWHERE, ALICE))

        async def of_then_join(user_id: UserId) -> Any:
            nonlocal looks
            looks += 1
            before = dict(await of(user_id))
            if looks == 2:  # the first is for her devices, the second for her keys
                world.rooms.put(ELSEWHERE, ALICE, BOB)
                way.close()
            return before

        world.rooms.of = of_then_join  # type: ignore[method-assign]
        assert await claimed(world) == "one-time"


async def test_a_question_about_unseen_users_alone_is_refused(world: World) -> None:
    """An empty answer would mean that they have no devices."""
    with pytest.raises(MatrixError, match="403 M_FORBIDDEN"):
        await world.queries.keys_query(THERE, {ALICE: [], ANNA: []})
    with pytest.raises(MatrixError, match="403 M_FORBIDDEN"):
        await world.queries.keys_claim(THERE, {ALICE: {PHONE: ALGORITHM}})
    world.rooms.put(ROOM, ALICE, BOB)
    found = await world.queries.keys_query(THERE, {ALICE: [], ANNA: []})
    assert set(found["device_keys"]) == {ALICE}


async def test_users_of_other_servers_are_no_business_of_ours(world: World) -> None:
    world.rooms.put(ROOM, ALICE, BOB)
    assert (await world.queries.keys_query(THERE, {BOB: []}))["device_keys"] == {}
    with pytest.raises(MatrixError):
        await world.queries.devices(THERE, BOB)
    with pytest.raises(MatrixError, match="404"):
        await world.queries.profile(THERE, BOB, None)
    with pytest.raises(MatrixError, match="404"):
        await world.queries.directory(RoomAlias("#a:there.test"))


async def test_names_with_nul_claim_nothing(world: World) -> None:
    world.rooms.put(ROOM, ALICE, BOB)
    wanted = {ALICE: {DeviceId("\0"): ALGORITHM}}
    assert await world.queries.keys_claim(THERE, wanted) == {"one_time_keys": {}}


async def test_profiles_and_aliases_are_passed_on(world: World) -> None:
    assert await world.queries.profile(THERE, ALICE, None) == {"displayname": "Alice"}
    with pytest.raises(MatrixError, match="404"):
        await world.queries.profile(THERE, ANNA, None)
    assert await world.queries.directory(RoomAlias("#a:here.test")) == (ROOM, [HERE])


def edu_contents(user: str) -> dict[str, Any]:
    return {
        "to_device": {
            "sender": user,
            "type": "m.x",
            "message_id": "m",
            "messages": {ALICE: {PHONE: {}}},
        },
        "device_list_update": {"user_id": user, "device_id": "D", "stream_id": 1, "prev_id": []},
        "signing_key_update": {"user_id": user},
        "receipts": {
            ROOM: {"m.read": {user: {"event_ids": ["$a"], "data": {"ts": 1}}}},
        },
    }


async def test_a_server_speaks_for_its_own_users_only(world: World) -> None:
    world.rooms.put(ROOM, ALICE, BOB, MALLORY)
    before = world.log.position
    for name, content in edu_contents(MALLORY).items():
        await getattr(world.edus, name)(THERE, content)
    await world.edus.typing(THERE, ROOM, MALLORY, True)
    assert world.log.position == before
    assert world.typing.since(ROOM, None) is None
    for name, content in edu_contents(BOB).items():
        await getattr(world.edus, name)(THERE, content)
    await world.edus.typing(THERE, ROOM, BOB, True)
    await world.edus.presence(THERE, {"push": []})
    kinds = [type(placed.entry) for placed in world.log.placed[before:]]
    assert kinds == [ToDeviceEntry, DeviceListEntry, DeviceListEntry, ReceiptEntry]
    assert world.typing.since(ROOM, None) == (BOB,)
