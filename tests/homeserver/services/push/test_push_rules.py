"""Push rules of users: stored, told to other devices, bounded, and carried over."""

import asyncio
from typing import Any

import orjson
import pytest

from federation.errors import MatrixError
from federation.events.ids import RoomId
from homeserver import limits
from homeserver.engine.entries import AccountDataEntry
from homeserver.rules.push.push_rules_default import default_rules
from homeserver.services.push.push_rules import PushRules
from homeserver.storage.database import Database
from tests.homeserver.device_world import ALICE, ANNA, Log

MASTER = ".m.rule.master"


class World:
    """The service over a log; `settled` notes when it waited for events to be evaluated."""

    def __init__(self, database: Database) -> None:
        self.log = Log(database)
        self.waited: list[int] = []
        self.rules = PushRules(database, self.log, self.settled)

    async def settled(self) -> None:
        """All events are evaluated."""
        self.waited.append(self.log.position)

    async def put(self, rule_id: str, pattern: str = "x", **place: Any) -> None:
        """Puts a content rule."""
        body = {"pattern": pattern, "actions": ["notify"]}
        await self.rules.put(ALICE, "content", rule_id, body, **place)

    async def ids(self, kind: str = "content") -> list[str]:
        """The IDs of Alice's rules."""
        return [rule["rule_id"] for rule in await self.rules.of_kind(ALICE, kind)]


@pytest.fixture
async def world(device_database: Database) -> World:
    """Return a new world."""
    return World(device_database)


async def test_default_rules_are_found_by_kind_and_id(world: World) -> None:
    """Before anything is changed."""
    assert await world.rules.ruleset(ALICE) == {"global": default_rules(ALICE)}
    rule = await world.rules.rule(ALICE, "override", ".m.rule.is_user_mention")
    assert rule["conditions"][0]["value"] == ALICE
    for kind, rule_id, errcode in (
        ("room", MASTER, "M_NOT_FOUND"),
        ("other", MASTER, "M_INVALID_PARAM"),
    ):
        with pytest.raises(MatrixError) as caught:
            await world.rules.rule(ALICE, kind, rule_id)
        assert caught.value.errcode == errcode


async def test_changes_are_stored_and_told(world: World) -> None:
    """Each with the whole ruleset; the rules of others stay."""
    await world.put("a")
    await world.put("b", after="a")
    await world.rules.enable(ALICE, "override", MASTER, {"enabled": True})
    await world.rules.act(ALICE, "content", "a", {"actions": []})
    entries = world.log.of_kind(AccountDataEntry)
    assert [(one.user_id, one.room_id, one.type) for one in entries] == [
        (ALICE, "", "m.push_rules")
    ] * 4
    assert orjson.loads(entries[-1].content) == await world.rules.ruleset(ALICE)
    assert await world.ids() == ["a", "b"]
    assert (await world.rules.rule(ALICE, "content", "a"))["actions"] == []
    assert (await world.rules.rule(ALICE, "override", MASTER))["enabled"] is True
    assert await world.rules.ruleset(ANNA) == {"global": default_rules(ANNA)}
    await world.rules.delete(ALICE, "content", "b")
    assert await world.ids() == ["a"]


async def test_events_are_evaluated_before_a_change(world: World) -> None:
    """So that they count by the rules of their time."""
    await world.put("a")
    await world.put("b")
    assert world.waited == [0, 1]


async def test_a_change_that_changes_nothing_is_not_told(world: World) -> None:
    """Clients repeat themselves."""
    await world.put("a")
    await world.put("a")
    assert world.log.position == 1


async def test_changes_at_once_are_all_kept(world: World) -> None:
    """One after another."""
    await asyncio.gather(*(world.put(f"r{i}") for i in range(5)))
    assert sorted(await world.ids()) == [f"r{i}" for i in range(5)]


async def test_refused_changes_change_nothing(world: World) -> None:
    """A rule beside one that isn't there, or of a kind that doesn't exist."""
    with pytest.raises(MatrixError, match="M_UNKNOWN"):
        await world.put("a", before="absent")
    for change in (
        world.rules.put(ALICE, "other", "a", {"actions": []}),
        world.rules.delete(ALICE, "other", "a"),
        world.rules.enable(ALICE, "other", "a", {"enabled": True}),
        world.rules.act(ALICE, "other", "a", {"actions": []}),
    ):
        with pytest.raises(MatrixError, match="M_INVALID_PARAM"):
            await change
    assert world.log.position == 0


async def test_rules_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In number and size; the ones that are there can still be changed and removed."""
    monkeypatch.setattr(limits, "PUSH_RULES_PER_USER", 2)
    await world.put("a")
    await world.put("b")
    await world.put("a", "changed")
    with pytest.raises(MatrixError, match="at most 2"):
        await world.put("c")
    await world.rules.delete(ALICE, "content", "a")
    await world.put("c")
    size = len(await world.log.database.fetchval("SELECT rules FROM push_rules"))
    monkeypatch.setattr(limits, "PUSH_RULES_BYTES", size)
    await world.put("c", "y")
    with pytest.raises(MatrixError, match="M_TOO_LARGE"):
        await world.put("c", "yy")


async def test_what_cant_be_stored_is_refused(world: World) -> None:
    """Numbers beyond those of JSON libraries."""
    condition = {"kind": "event_property_is", "key": "content.n", "value": 2**70}
    body = {"actions": [], "conditions": [condition]}
    with pytest.raises(MatrixError, match="M_BAD_JSON"):
        await world.rules.put(ALICE, "override", "r", body)


async def test_the_rule_of_a_room_is_carried_over(world: World) -> None:
    """Once, and only if there is one."""
    old, new = RoomId("!old:here.test"), RoomId("!new:here.test")
    await world.rules.carry_over(ALICE, old, new)
    assert world.log.position == 0
    await world.rules.put(ALICE, "room", old, {"actions": []})
    await world.rules.carry_over(ALICE, old, new)
    assert await world.ids("room") == [new, old]
    await world.rules.carry_over(ALICE, old, new)
    assert world.log.position == 2
