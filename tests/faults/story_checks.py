"""What must hold after a story: checked by what clients are told, at each server."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import quote

from tests.faults.actors import PATIENCE_S, Follower, Owner
from tests.faults.person import JsonObject, Person
from tests.faults.servers import until
from tests.faults.story import Cast


async def check_all(actors: Cast, *, in_order: bool) -> None:
    """All of it, once everything is put right; each may take a while to come true. `in_order`: the
    rooms' orders follow the graph, too."""
    people = [author.person for author in actors.authors]
    for author in actors.authors:
        await author.write()  # the last words of each server
    await _each_message_once(actors)
    if in_order:
        await _in_the_order_of_writing(actors)
    await _same_state(people, actors.room_id)
    await _latecomers_see_the_same(actors)
    for follower in actors.followers:
        await _each_letter_once(actors, follower)
        await _devices_told(actors, follower)
        assert len(set(follower.events)) == len(follower.events), "a sync tells an event once"


async def _in_time(condition: Callable[[], Awaitable[str]]) -> None:
    """Wait until a condition has nothing to object to."""
    deadline = time.monotonic() + PATIENCE_S
    said = ""

    async def holds() -> bool:
        nonlocal said
        said = await condition()
        assert time.monotonic() < deadline, said
        return not said

    await until(holds, said or "a check comes true", within_s=PATIENCE_S + 10)


async def _each_message_once(actors: Cast) -> None:
    """Every acknowledged message on every server once."""
    expected = sorted(event_id for author in actors.authors for event_id in author.written)
    for reader in (author.person for author in actors.authors):

        async def objection(reader: Person = reader) -> str:
            found = [event_id for event_id, _ in await reader.history(actors.room_id)]
            if sorted(found) == expected:
                return ""
            lacking = len(set(expected) - set(found))
            extra = len(found) - len(set(found) & set(expected))
            return f"{reader.user_id} lacks {lacking} messages and has {extra} too many"

        await _in_time(objection)


async def _in_the_order_of_writing(actors: Cast) -> None:
    """An author's messages stand in the order of writing, which is that of the graph: each was
    written on top of the one before."""
    for reader in (author.person for author in actors.authors):
        found = [event_id for event_id, _ in await reader.history(actors.room_id)]
        for author in actors.authors:
            mine = set(author.written)
            order = [one for one in found if one in mine]
            assert order == author.written, f"{reader.user_id}: {author.person.user_id}'s order"


async def _latecomers_see_the_same(actors: Cast) -> None:
    """Who joins now, at whichever server, may read all of it."""
    expected = {event_id for author in actors.authors for event_id in author.written}
    via = actors.authors[0].person.user_id.partition(":")[2]
    for reader in actors.latecomers:
        await reader.join(actors.room_id, via)

        async def objection(reader: Person = reader) -> str:
            found = [event_id for event_id, _ in await reader.history(actors.room_id)]
            is_same = set(found) == expected and len(found) == len(expected)
            return "" if is_same else f"{reader.user_id} sees {len(found)} of {len(expected)}"

        await _in_time(objection)


async def _same_state(people: list[Person], room_id: str) -> None:
    async def objection() -> str:
        states = []
        for person in people:
            answer = await person.call("GET", f"/rooms/{quote(room_id)}/state")
            if answer.status != 200:
                return f"{person.user_id} gets {answer.status}"
            events: list[dict[str, str]] = answer.body  # type: ignore[assignment]  # an array
            states.append({(one["type"], one["state_key"]): one["event_id"] for one in events})
        keys = {key for state in states for key in state}
        differing = [key for key in keys if len({state.get(key) for state in states}) > 1]
        return f"state differs in {differing}" if differing else ""

    await _in_time(objection)


async def _each_letter_once(actors: Cast, follower: Follower) -> None:
    expected = {
        one.name: list(range(one.sent))
        for one in actors.correspondents
        if one.receiver is follower.person and one.sent
    }

    async def objection() -> str:
        await follower.sync()
        return "" if follower.letters == expected else f"{follower.letters} isn't {expected}"

    await _in_time(objection)


async def _devices_told(actors: Cast, follower: Follower) -> None:
    """Every server has each user's devices as they are; its client heard of a change."""
    for owner in actors.owners:
        if owner.person is not follower.person:
            await _in_time(partial(_objection_to_devices, follower, owner))


async def _objection_to_devices(follower: Follower, owner: Owner) -> str:
    await follower.sync()
    reader, user_id = follower.person, owner.person.user_id
    query: JsonObject = {"device_keys": {user_id: []}}
    answer = await reader.call("POST", "/keys/query", query)
    found = set(answer.body.get("device_keys", {}).get(user_id, {}))
    if found != set(owner.devices):
        return f"{reader.user_id} sees {found} of {user_id}, not {set(owner.devices)}"
    is_listed = user_id in follower.changed or not owner.made
    return "" if is_listed else f"{reader.user_id} wasn't told of {user_id}"
