"""`freehold explain` over a real engine and database: verdicts, forks, both forms."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import jsonschema
import pytest
from click.testing import CliRunner

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, UserId
from federation.graph.admission import Accepted, Rejected, SoftFailed
from federation.graph.auth.auth_rules import AuthFailure, AuthRule
from homeserver import limits
from homeserver.cli import main
from homeserver.config import Config, DatabaseSettings
from homeserver.storage.database import DatabaseFailing
from homeserver.tools import explain as service
from homeserver.tools.open_database import read_only
from local_postgres import EmbeddedCluster, EmbeddedError
from local_postgres.attach import running_url
from tests.homeserver.engine.engine_world import ALICE, BOB, World, draft, message, running

DOCUMENT = Path(__file__).parents[3] / "docs" / "event-graph.md"
CAROL = UserId("@carol:hs2")
JOIN = draft("m.room.member", {"membership": "join"}, BOB, sender=BOB)
BAN = draft("m.room.member", {"membership": "ban"}, BOB)


async def room_with_bob(world: World) -> RoomId:
    levels = draft("m.room.power_levels", {"users": {BOB: 50}}, "")
    room_id = await world.create_room([levels])
    await world.engine.remote_event_writer.accept_membership(await world.remote(room_id, JOIN))
    return room_id


async def fork(world: World, room_id: RoomId) -> tuple[EventId, Event]:
    """Alice bans Bob, who sets the topic beside it: his event comes first, so it is accepted."""
    room = await world.room(room_id)
    heads = [head.event_id for head in room.view.heads]
    topic = await world.remote(
        room_id, draft("m.room.topic", {"topic": "t"}, "", sender=BOB), parents=heads
    )
    ours = await world.say(room_id, "beside it")
    await world.engine.remote_event_writer.accept(topic, Accepted())
    return ours, topic


def config(url: str) -> Config:
    return Config(server_name="hs1", database=DatabaseSettings(url=url))


async def told(url: str, what: str, position: int | None = None) -> Any:
    return json.loads(await service.explain(config(url), what, json.dumps, position=position))


def check_schema(value: object) -> None:
    found = re.search(r"<!-- schema -->\n```json\n(.*?)\n```", DOCUMENT.read_text(), re.S)
    assert found is not None
    jsonschema.validate(value, json.loads(found[1]))


async def test_an_open_fork_is_explained_beside_the_running_server(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await room_with_bob(world)
        ours, topic = await fork(world, room_id)
        room = await told(postgres_url, room_id)
        assert set(room["heads"]) == {ours, topic.event_id}
        assert room["merged_by"] is None
        (conflict,) = room["resolution"]["conflicted"]
        assert conflict["type"] == "m.room.topic"
        assert set(conflict["event_ids"]) == {None, topic.event_id}
        (outcome,) = room["resolution"]["result"]
        assert outcome["event_id"] == topic.event_id
        text = await service.explain(config(postgres_url), room_id, None)
        assert "The newest fork is open" in text
        assert topic.event_id in text


async def test_the_fork_that_an_event_joined_last_is_explained(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await room_with_bob(world)
        ours, topic = await fork(world, room_id)
        merge = await world.say(room_id, "merge")
        await world.say(room_id, "after it")
        room = await told(postgres_url, room_id)
        assert room["merged_by"] == merge
        assert set(room["resolution"]["states"]) == {f"after {ours}", f"after {topic.event_id}"}
        text = await service.explain(config(postgres_url), room_id, None)
        assert f"The newest fork was joined by {merge}" in text


async def test_a_room_without_a_fork_says_so(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        assert (await told(postgres_url, room_id))["resolution"] is None
        text = await service.explain(config(postgres_url), room_id, None)
        assert "No fork among the newest events" in text


@dataclass
class Reset:
    """A topic that a merge took away."""

    room_id: RoomId
    topic: Event
    demotion: Event
    position: int


async def reset(world: World) -> Reset:
    """Bob sets a topic; beside it Carol takes his power away, and her event comes later."""
    room_id = await world.create_room(
        [draft("m.room.power_levels", {"users": {BOB: 50, CAROL: 100}}, "")]
    )
    for user in (BOB, CAROL):
        join = draft("m.room.member", {"membership": "join"}, user, sender=user)
        await world.engine.remote_event_writer.accept_membership(await world.remote(room_id, join))
    heads = [head.event_id for head in (await world.room(room_id)).view.heads]
    said = draft("m.room.topic", {"topic": "t"}, "", sender=BOB)
    topic = await world.remote(room_id, said, parents=heads)
    less = draft("m.room.power_levels", {"users": {BOB: 0, CAROL: 100}}, "", sender=CAROL)
    demotion = await world.remote(room_id, less, parents=heads)
    for event in (topic, demotion):
        assert await world.engine.remote_event_writer.accept(event, Accepted()) == Accepted()
    room = await world.room(room_id)
    assert ("m.room.topic", "") not in room.view.state
    return Reset(room_id, topic, demotion, room.view.position)


async def test_a_state_reset_is_explained_long_after(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        made = await reset(world)
        for number in range(3):
            await world.say(made.room_id, f"later {number}")
    room = await told(postgres_url, made.room_id)
    check_schema(room)
    [record] = room["recorded"]
    assert record["position"] == made.position
    assert record["event_id"] == made.demotion.event_id
    assert record["branches"] == [made.demotion.event_id, made.topic.event_id]
    changes = {change["type"]: change for change in record["changes"]}
    assert changes.keys() == {"m.room.topic", "m.room.power_levels"}
    assert changes["m.room.topic"]["before"] == made.topic.event_id
    assert changes["m.room.topic"]["after"] is None
    assert changes["m.room.power_levels"]["after"] == made.demotion.event_id
    explained = await told(postgres_url, made.room_id, made.position)
    check_schema(explained)
    assert explained["record"] == record
    assert explained["agrees"]
    [refused] = [one for one in explained["resolution"]["others"] if not one["allowed"]]
    assert refused["event_id"] == made.topic.event_id
    assert (refused["rule"], refused["number"]) == ("level_too_low", "8")


async def test_the_document_has_the_output_of_a_recorded_resolution(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        made = await reset(world)
        await world.say(made.room_id, "later")
    text = await service.explain(config(postgres_url), made.room_id, None)
    listed = text[: text.index("The newest fork")]
    assert documented("recorded") == listed
    whole = await service.explain(config(postgres_url), made.room_id, None, position=made.position)
    assert documented("record") == whole[: whole.index("\nEvents\n")]


def documented(marker: str) -> str:
    found = re.search(rf"<!-- output: {marker} -->\n```\n(.*?)```", DOCUMENT.read_text(), re.S)
    assert found is not None
    return found[1]


async def test_a_replay_that_leads_elsewhere_says_so(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        made = await reset(world)
        async with world.database.connection() as connection:
            await connection.execute("UPDATE resolutions SET state_after = state_before")
    assert not (await told(postgres_url, made.room_id, made.position))["agrees"]
    text = await service.explain(config(postgres_url), made.room_id, None, position=made.position)
    assert "ANOTHER state" in text


async def test_an_unknown_position_is_answered_with_those_that_there_are(
    postgres_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "freehold.toml"
    path.write_text(f'server_name = "hs1"\n[database]\nurl = "{postgres_url}"\n')
    async with running(postgres_url) as world:
        made = await reset(world)
        quiet = await world.create_room()
    command = partial(asyncio.to_thread, partial(run, "--config", str(path)))
    code, output = await command("--resolution", "1", made.room_id)
    assert code == 1
    assert f"{made.room_id} has no recorded resolution at 1; it has: {made.position}" in output
    code, output = await command("--resolution", "1", quiet)
    assert (code, "it has: none" in output) == (1, True)
    code, output = await command("--resolution", "1", "!unknown")
    assert (code, "nothing is stored of !unknown" in output) == (1, True)
    code, output = await command("--resolution", "1", made.topic.event_id)
    assert (code, "give its ID, with the exclamation mark" in output) == (2, True)
    code, output = await command("--resolution", str(made.position), "--json", made.room_id)
    assert (code, '"agrees": true' in output) == (0, True)


async def test_a_soft_failed_event_is_explained_by_the_rule_that_decided(
    postgres_url: str,
) -> None:
    async with running(postgres_url) as world:
        room_id = await room_with_bob(world)
        late = await world.remote(room_id, message("late", sender=BOB))
        await world.engine.writer.send(room_id, BAN)
        assert isinstance(
            await world.engine.remote_event_writer.accept(late, Accepted()), SoftFailed
        )
        event = await told(postgres_url, late.event_id)
        assert event["verdict"] == "soft_failed"
        assert event["reason"].startswith("sender_not_joined")
        checks = event["checks"]
        assert checks["auth_events"]["allowed"]
        assert checks["state_before"]["allowed"]
        assert not checks["current_state"]["allowed"]
        assert checks["current_state"]["rule"] == "sender_not_joined"
        assert checks["current_state"]["number"] == "6"
        text = await service.explain(config(postgres_url), late.event_id, None)
        assert "refused by rule 6, sender_not_joined: @bob:hs2 is not joined" in text


async def test_a_rejected_event_is_explained(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        await world.engine.remote_event_writer.accept_membership(await world.remote(room_id, JOIN))
        topic = await world.remote(room_id, draft("m.room.topic", {}, "", sender=BOB))
        verdict = Rejected(AuthFailure(AuthRule.LEVEL_TOO_LOW, "@bob:hs2 has 0 of 50"))
        await world.engine.remote_event_writer.accept(topic, verdict)
        event = await told(postgres_url, topic.event_id)
        assert event["verdict"] == "rejected"
        assert event["checks"]["state_before"]["rule"] == "level_too_low"


async def test_what_is_not_stored_is_said_not_to_be(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        await world.create_room()
        for what in ("$unknown", "!unknown:hs1"):
            with pytest.raises(service.NothingKnown):
                await service.explain(config(postgres_url), what, None)


async def test_the_session_can_not_write(postgres_url: str) -> None:
    async with running(postgres_url), read_only(config(postgres_url)) as database:
        with pytest.raises(DatabaseFailing, match="ReadOnly"):
            async with database.connection() as connection:
                await connection.execute("DELETE FROM events")


async def test_an_embedded_database_is_found_by_what_its_postmaster_wrote(
    tmp_path: Path, postgres_cluster: EmbeddedCluster
) -> None:
    assert running_url(tmp_path, "freehold") is None
    url = await postgres_cluster.ensure_database("freehold")
    home = postgres_cluster.log_path.parent
    assert running_url(home, "freehold", fallback_root=postgres_cluster.cluster_dir) == url
    connection = await asyncpg.connect(url)
    await connection.close()
    with pytest.raises(EmbeddedError):
        async with read_only(Config(server_name="hs1", data_dir=str(tmp_path))):
            raise AssertionError("there is nothing to open")


async def test_the_command_prints_text_or_json(postgres_url: str, tmp_path: Path) -> None:
    path = tmp_path / "freehold.toml"
    path.write_text(f'server_name = "hs1"\n[database]\nurl = "{postgres_url}"\n')
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        said = await world.say(room_id, "x")
    cases: list[tuple[list[str], str]] = [
        ([said], "stored as accepted"),
        ([said, "--json"], '"verdict": "accepted"'),
        ([room_id], "No fork"),
    ]
    for arguments, expected in cases:
        code, output = await asyncio.to_thread(run, "--config", str(path), *arguments)
        assert code == 0, output
        assert expected in output
    code, output = await asyncio.to_thread(run, "--config", str(path), "$unknown")
    assert code == 1
    assert "nothing is stored of $unknown" in output
    assert ALICE.endswith(":hs1")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["explain", *arguments])
    return result.exit_code, result.output


async def test_a_fork_is_looked_for_among_so_many_events(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(postgres_url) as world:
        room_id = await room_with_bob(world)
        await fork(world, room_id)
        merge = await world.say(room_id, "merge")
        await world.say(room_id, "after it")
        for bound, found in ((2, merge), (1, None)):
            monkeypatch.setattr(limits, "EXPLAIN_EVENTS", bound)
            assert (await told(postgres_url, room_id))["merged_by"] == found
