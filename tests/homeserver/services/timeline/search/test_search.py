"""Searches for messages: what their user may see, page by page."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from federation.events.ids import UserId
from homeserver import limits
from homeserver.storage.timeline.search import FoundRow
from tests.homeserver.room_world import ALICE, BOB, CAROL, World
from tests.homeserver.services.timeline.search.searches import bodies, everything, search
from tests.homeserver.sync_world import SyncWorld, sync_world

PUBLIC: dict[str, Any] = {"preset": "public_chat"}


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    async with sync_world(postgres_url) as world:
        yield world


async def test_a_message_is_found_at_once_and_the_newest_first(syncs: SyncWorld) -> None:
    world = syncs.world
    first, second = await world.room(), await world.room()
    await syncs.say(ALICE, first, "green tea")
    await syncs.say(ALICE, second, "a teapot", "coffee")
    await syncs.say(ALICE, first, "black tea")
    found = await search(world, "TEA")
    assert bodies(found) == ["black tea", "a teapot", "green tea"]
    assert (found["count"], found["highlights"]) == (3, ["tea"])
    assert "next_batch" not in found
    assert bodies(await search(world, "tea", filter={"rooms": [first]})) == [
        "black tea",
        "green tea",
    ]
    assert bodies(await search(world, "tea", filter={"not_rooms": [first]})) == ["a teapot"]
    assert await search(world, "tea", BOB) == {"count": 0, "highlights": ["tea"], "results": []}


async def test_names_and_topics_are_found_by_their_keys(syncs: SyncWorld) -> None:
    world = syncs.world
    room_id = await world.room(name="Tea room", topic="All about tea")
    await syncs.say(ALICE, room_id, "tea")

    async def types(*keys: str, **more: Any) -> list[str]:
        found = await search(world, "tea", keys=list(keys), **more)
        return sorted(one["result"]["type"].removeprefix("m.room.") for one in found["results"])

    assert await types() == ["message", "name", "topic"]
    assert await types("content.name") == ["name"]
    assert await types("content.topic", "content.body") == ["message", "topic"]
    assert await types(filter={"types": ["m.room.name"]}) == ["name"]
    assert await types("content.topic", filter={"types": ["m.room.name"]}) == []
    assert await types(filter={"not_types": ["m.*"]}) == []


async def test_the_filter_of_senders_and_links(syncs: SyncWorld) -> None:
    world = syncs.world
    room_id = await world.room(**PUBLIC)
    await syncs.join(room_id, BOB)
    await syncs.say(ALICE, room_id, "x alice")
    await syncs.say(BOB, room_id, "x bob")
    await world.send(BOB, room_id, {"body": "x file", "url": "mxc://a/b"}, "file")
    assert bodies(await search(world, "x", filter={"senders": [BOB]})) == ["x file", "x bob"]
    assert bodies(await search(world, "x", filter={"not_senders": [BOB]})) == ["x alice"]
    assert bodies(await search(world, "x", filter={"contains_url": True})) == ["x file"]
    assert bodies(await search(world, "x", filter={"senders": []})) == []


async def test_every_page_goes_on_where_the_last_one_ended(syncs: SyncWorld) -> None:
    world = syncs.world
    room_id = await world.room()
    sent = await syncs.say(ALICE, room_id, *(f"x {number}" for number in range(7)))
    for limit in (1, 3, 7, 8):
        assert await everything(world, "x", filter={"limit": limit}) == sent[::-1]
    first = await search(world, "x", filter={"limit": 3})
    await syncs.say(ALICE, room_id, "x new")
    rest = await search(world, "x", filter={"limit": 10}, token=first["next_batch"])
    assert bodies(rest) == ["x 3", "x 2", "x 1", "x 0"], "what came meanwhile is not repeated"


async def test_the_best_come_first_by_rank(syncs: SyncWorld) -> None:
    world = syncs.world
    room_id = await world.room()
    texts = ["tea tea tea", "tea and many other words " * 5, "teapot and", "tea", "no"]
    await syncs.say(ALICE, room_id, *texts)
    found = await search(world, "tea", order_by="rank")
    ranks = [one["rank"] for one in found["results"]]
    assert ranks == sorted(ranks, reverse=True)
    assert min(ranks) > 0
    assert bodies(found)[0] == "tea tea tea"
    first = await search(world, "tea", order_by="rank", filter={"limit": 2})
    await syncs.say(ALICE, room_id, "tea tea tea tea")
    ids, token = [one["result"]["event_id"] for one in first["results"]], first["next_batch"]
    rest = await search(world, "tea", order_by="rank", token=token)
    ids += [one["result"]["event_id"] for one in rest["results"]]
    assert ids == [one["result"]["event_id"] for one in found["results"]]
    assert "next_batch" not in rest


async def test_only_the_newest_are_ranked(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SEARCH_RANKED", 3)
    room_id = await syncs.world.room()
    sent = await syncs.say(ALICE, room_id, *(f"x {number}" for number in range(4)))
    for limit in (2, 10):
        wanted: dict[str, Any] = {"order_by": "rank", "filter": {"limit": limit}}
        assert sorted(await everything(syncs.world, "x", **wanted)) == sorted(sent[1:])
    groups = {"group_by": [{"key": "room_id"}]}
    for most, goes_on in ((3, False), (5, True)):
        monkeypatch.setattr(limits, "SEARCH_RANKED", most)
        found = await search(
            syncs.world, "x", order_by="rank", groupings=groups, filter={"limit": 2}
        )
        [group] = found["groups"]["room_id"].values()
        assert ("next_batch" in group) == goes_on, "the newest of a group would be others"
        assert found["next_batch"]


async def test_groups_have_their_own_pages(syncs: SyncWorld) -> None:
    world = syncs.world
    rooms = [await world.room(**PUBLIC) for _ in range(2)]
    expected: dict[str, list[str]] = {}
    for room_id in rooms:
        await syncs.join(room_id, BOB)
    for number in range(6):
        room_id, user = rooms[number % 2], (ALICE, BOB)[number // 3]
        (event_id,) = await syncs.say(user, room_id, f"x {number}")
        expected.setdefault(room_id, []).insert(0, event_id)
        expected.setdefault(user, []).insert(0, event_id)
    both = {"group_by": [{"key": "room_id"}, {"key": "sender"}]}
    for order in ("recent", "rank"):
        wanted: dict[str, Any] = {"order_by": order, "groupings": both}
        found = await search(world, "x", filter={"limit": 4}, **wanted)
        groups = found["groups"]
        assert set(groups["room_id"]) == set(rooms)
        assert [group["order"] for group in groups["sender"].values()] == [0, 1]
        for key in ("room_id", "sender"):
            given = [one for group in groups[key].values() for one in group["results"]]
            assert sorted(given) == sorted(one["result"]["event_id"] for one in found["results"])
            for value, group in groups[key].items():
                rest = await search(world, "x", token=group["next_batch"], **wanted)
                ids = group["results"] + [one["result"]["event_id"] for one in rest["results"]]
                assert sorted(ids) == sorted(expected[value]), (order, value)
                assert "next_batch" not in rest


async def test_encrypted_rooms_are_left_out(syncs: SyncWorld) -> None:
    world = syncs.world
    room_id = await world.room()
    await syncs.say(ALICE, room_id, "x before")
    assert bodies(await search(world, "x")) == ["x before"]
    algorithm = {"algorithm": "m.megolm.v1.aes-sha2"}
    await world.put_state(ALICE, room_id, "m.room.encryption", algorithm)
    assert bodies(await search(world, "x")) == []


async def test_redacted_messages_are_found_no_more(syncs: SyncWorld) -> None:
    world = syncs.world
    room_id = await world.room()
    secret, _ = await syncs.say(ALICE, room_id, "x secret", "x other")
    assert bodies(await search(world, "x")) == ["x other", "x secret"]
    await world.in_room(ALICE, "PUT", room_id, f"redact/{secret}/1", {})
    assert bodies(await search(world, "x")) == ["x other"]
    # one that is redacted before it is indexed
    (later,) = await syncs.say(ALICE, room_id, "x later")
    await world.in_room(ALICE, "PUT", room_id, f"redact/{later}/2", {})
    assert bodies(await search(world, "x")) == ["x other"]
    left = await world.database.fetchval("SELECT string_agg(terms::text, ' ') FROM search_events")
    assert "secret" not in left
    assert "later" not in left


async def test_rooms_that_a_user_left_are_searched_as_far_as_they_saw_them(
    syncs: SyncWorld,
) -> None:
    world = syncs.world
    room_id = await world.room(**PUBLIC)
    await syncs.join(room_id, BOB)
    await syncs.say(ALICE, room_id, "x while there")
    await world.in_room(BOB, "POST", room_id, "leave")
    await syncs.say(ALICE, room_id, "x afterwards")
    assert bodies(await search(world, "x", BOB)) == ["x while there"]
    await world.in_room(BOB, "POST", room_id, "forget")
    assert bodies(await search(world, "x", BOB)) == []


async def test_a_request_looks_at_a_bounded_number_of_candidates(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden ones are skipped; a page may be short then, and the next one goes on."""
    world = syncs.world
    monkeypatch.setattr(limits, "SEARCH_CANDIDATES", 2)
    monkeypatch.setattr(limits, "SEARCH_CANDIDATES_MAX", 4)
    room_id = await world.room(**PUBLIC)
    await world.put_state(
        ALICE, room_id, "m.room.history_visibility", {"history_visibility": "joined"}
    )
    await syncs.join(room_id, BOB)
    seen = await syncs.say(ALICE, room_id, "x seen", "x too")
    await world.in_room(BOB, "POST", room_id, "leave")
    await syncs.say(ALICE, room_id, *(f"x hidden {number}" for number in range(7)))
    first = await search(world, "x", BOB)
    assert bodies(first) == []
    assert first["count"] == 0, "what is hidden isn't counted"
    assert first["next_batch"]
    assert await everything(world, "x", BOB) == seen[::-1]
    monkeypatch.setattr(limits, "SEARCH_CANDIDATES_MAX", 10)
    assert bodies(await search(world, "x", BOB)) == ["x too", "x seen"]


async def test_a_search_that_takes_too_long_is_given_up(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = syncs.world
    await world.room()

    async def forever(*_values: object, **_options: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(limits, "SEARCH_S", 0.01)
    monkeypatch.setattr("homeserver.storage.timeline.search.SearchTable.find", forever)
    asked = {"search_categories": {"room_events": {"search_term": "x"}}}
    reply = await world.call(ALICE, "POST", "/search", asked)
    assert reply.status == 503
    assert reply.body["retry_after_ms"] > 0


async def test_only_some_searches_run_at_once(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = syncs.world
    await world.room()
    running, most = 0, 0
    go_on = asyncio.Event()

    async def counted(*_values: object, **_options: object) -> list[FoundRow]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go_on.wait()
        running -= 1
        return []

    monkeypatch.setattr("homeserver.storage.timeline.search.SearchTable.find", counted)
    searches = [asyncio.create_task(search(world, "x")) for _ in range(limits.SEARCHES_AT_ONCE + 2)]
    async with asyncio.timeout(60):
        while running < limits.SEARCHES_AT_ONCE:
            await asyncio.sleep(0.01)
    go_on.set()
    await asyncio.gather(*searches)
    assert most == limits.SEARCHES_AT_ONCE


WORDS = ("tea", "teapot", "coffee", "日本", "日本語", "café")


class History:
    """A random history of a few rooms and users, and what a naive reader finds in it: each page of
    each room, the whole text, word by word."""

    def __init__(self, syncs: SyncWorld, rng: random.Random) -> None:
        self.syncs, self.rng = syncs, rng
        self.rooms: list[str] = []
        self.sent: list[str] = []

    async def step(self) -> None:
        """One change, which may be refused."""
        world, rng = self.syncs.world, self.rng
        user, room_id = rng.choice((ALICE, BOB, CAROL)), rng.choice(self.rooms)
        match rng.randrange(12):
            case 0:
                await world.join(user, room_id)
            case 1 if user != ALICE:
                await world.in_room(user, "POST", room_id, "leave")
            case 2:
                kind = rng.choice(("joined", "invited", "shared", "world_readable"))
                content = {"history_visibility": kind}
                await world.put_state(ALICE, room_id, "m.room.history_visibility", content)
            case 3 if self.sent:
                target = rng.choice(self.sent)
                path = f"redact/{target}/{rng.random()}"
                await world.in_room(user, "PUT", room_id, path, {})
            case 4:
                await world.put_state(ALICE, room_id, "m.room.name", {"name": self.text()})
            case _:
                content = {"msgtype": "m.text", "body": self.text()}
                reply = await world.send(user, room_id, content, str(rng.random()))
                self.sent += [reply.body["event_id"]] if reply.status == 200 else []

    def text(self) -> str:
        return " ".join(self.rng.choice(WORDS) for _ in range(self.rng.randint(1, 3)))

    async def expected(self, term: str, user: UserId) -> set[str]:
        found = set()
        for room_id in self.rooms:
            start = None
            while True:
                page = await self.syncs.page(user, room_id, dir="b", limit=50, start=start)
                if page.status == 403:
                    break
                for event in page.body["chunk"]:
                    text = event["content"].get("body") or event["content"].get("name") or ""
                    is_kind = event["type"] in ("m.room.message", "m.room.name")
                    if is_kind and any(_naive(term, word) for word in text.split(" ")):
                        found.add(event["event_id"])
                start = page.body.get("end")
                if start is None:
                    break
        return found


def _naive(term: str, word: str) -> bool:
    word = word.replace("é", "e")
    return term in word if term in "日本語" else word.startswith(term)


@pytest.mark.parametrize("seed", range(3))
async def test_it_finds_what_paging_through_every_room_finds(syncs: SyncWorld, seed: int) -> None:
    rng = random.Random(seed)
    history = History(syncs, rng)
    for _ in range(2):
        history.rooms.append(await syncs.world.room(**PUBLIC))
    for _ in range(60):
        await history.step()
        if rng.randrange(10) == 0:
            await search(syncs.world, "tea")  # the index is brought up to date in between
    found = 0
    for user in (ALICE, BOB, CAROL):
        been = await _been_in(syncs.world, user)
        for term in ("tea", "coffee", "日本", "本語", "cafe"):
            wanted = await history.expected(term, user)
            ids = await everything(syncs.world, term, user, filter={"limit": 3})
            assert len(ids) == len(set(ids))
            in_rooms = {one for one in wanted if await _room_of(syncs.world, one) in been}
            assert set(ids) == in_rooms, (user, term)
            found += len(ids)
    assert found > 20


async def _been_in(world: World, user: UserId) -> set[str]:
    """World-readable rooms are paged through by anybody, and searched by those who were in."""
    return {
        room_id
        for room_id, room in (await world.engine.memberships.of(user)).items()
        if room.membership in ("join", "leave", "ban")
    }


async def _room_of(world: World, event_id: str) -> str:
    found: str = await world.database.fetchval(
        "SELECT room_id FROM rooms JOIN events USING (room_row_id) WHERE event_id = $1", event_id
    )
    return found
