"""Searches over a room world."""

from __future__ import annotations

from typing import Any

from federation.events.ids import UserId
from tests.homeserver.room_world import ALICE, World
from tests.homeserver.sync_world import encoded


async def search(
    world: World, term: str, user: UserId = ALICE, *, token: str = "", **wanted: Any
) -> dict[str, Any]:
    """The results of one search, the newest first unless another order is wanted."""
    body = {"search_term": term, "order_by": "recent", **wanted}
    query = encoded({"next_batch": token or None})
    asked = {"search_categories": {"room_events": body}}
    reply = await world.call(user, "POST", "/search", asked, query=query)
    assert reply.status == 200, reply
    found: dict[str, Any] = reply.body["search_categories"]["room_events"]
    return found


def bodies(found: dict[str, Any]) -> list[str]:
    """The bodies of the results."""
    return [one["result"]["content"]["body"] for one in found["results"]]


async def everything(world: World, term: str, user: UserId = ALICE, **wanted: Any) -> list[str]:
    """The event IDs of all pages."""
    ids: list[str] = []
    token = ""
    for _ in range(100):
        found = await search(world, term, user, token=token, **wanted)
        ids += [one["result"]["event_id"] for one in found["results"]]
        token = found.get("next_batch", "")
        if not token:
            return ids
    raise AssertionError("the pages don't end")
