"""Responses about rooms against the schemas of their operations."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from federation.events.ids import UserId
from tests.homeserver.room_world import ALICE, BOB, CAROL, V3, World, room_world
from tests.spec.spec_files import needs_spec, response_errors


class Checked:
    """Makes requests and checks each response."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def __call__(
        self,
        method: str,
        template: str,
        values: Mapping[str, str] | None = None,
        body: object = None,
        *,
        by: UserId = ALICE,
    ) -> Any:
        """The body of the response; `values` fill the template."""
        values = values or {}
        path = template.format(**{name: quote(value, safe="") for name, value in values.items()})
        reply = await self._world.call(by, method, path, body)
        assert response_errors(method, V3 + template, reply.status, reply.body) == []
        assert reply.errcode != "M_UNRECOGNIZED"
        assert reply.status < 500
        return reply.body


@needs_spec
async def test_room_state_and_timeline(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        ask = Checked(world)
        room = "/rooms/{roomId}"
        body = {"preset": "public_chat", "name": "N", "topic": "T", "room_alias_name": "pub"}
        created = await ask("POST", "/createRoom", None, body)
        here = {"roomId": created["room_id"]}
        await ask("POST", "/createRoom", None, {"room_version": "99"})
        key = {**here, "eventType": "m.room.name", "stateKey": ""}
        await ask("PUT", room + "/state/{eventType}/{stateKey}", key, {"name": "M"})
        await ask("GET", room + "/state/{eventType}/{stateKey}", key)
        await ask("GET", room + "/state", here)
        await ask("GET", room + "/members", here)
        await ask("GET", room + "/joined_members", here)
        sending = {**here, "eventType": "m.room.message", "txnId": "1"}
        sent = await ask("PUT", room + "/send/{eventType}/{txnId}", sending, {"body": "x"})
        redacting = {**here, "eventId": sent["event_id"], "txnId": "2"}
        await ask("PUT", room + "/redact/{eventId}/{txnId}", redacting, {"reason": "r"})
        await ask("GET", room + "/state", here, by=BOB)
        await ask("POST", room + "/upgrade", here, {"new_version": "12"})
        await ask("POST", room + "/upgrade", here, {"new_version": "99"})


@needs_spec
async def test_membership(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        ask = Checked(world)
        room = "/rooms/{roomId}"
        here = {"roomId": await world.room(preset="public_chat", room_alias_name="pub")}
        await ask("POST", "/join/{roomIdOrAlias}", {"roomIdOrAlias": "#pub:here.example"}, by=BOB)
        await ask("POST", room + "/join", here, by=BOB)
        await ask("GET", "/joined_rooms", by=BOB)
        await ask("POST", "/knock/{roomIdOrAlias}", {"roomIdOrAlias": here["roomId"]}, by=CAROL)
        target = {"user_id": CAROL}
        for action in ("invite", "ban", "unban", "kick", "ban", "unban"):
            await ask("POST", f"{room}/{action}", here, target)
        await ask("POST", room + "/leave", here, by=BOB)
        await ask("POST", room + "/forget", here, by=BOB)


@needs_spec
async def test_directory(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        ask = Checked(world)
        here = {"roomId": await world.room()}
        alias = {"roomAlias": "#pub:here.example"}
        path = "/directory/room/{roomAlias}"
        for _ in range(2):
            await ask("PUT", path, alias, {"room_id": here["roomId"]})
        await ask("GET", path, alias)
        await ask("GET", "/rooms/{roomId}/aliases", here)
        await ask("PUT", "/directory/list/room/{roomId}", here, {"visibility": "public"})
        await ask("GET", "/directory/list/room/{roomId}", here)
        await ask("DELETE", path, alias)
        await ask("GET", path, alias)
        await ask("GET", path, {"roomAlias": "odd"})


@needs_spec
def test_a_response_that_does_not_fit_is_told() -> None:
    assert response_errors("POST", V3 + "/createRoom", 200, {"room_id": "odd"}) != []
    assert response_errors("POST", V3 + "/createRoom", 200, {}) != []
    assert response_errors("POST", V3 + "/createRoom", 201, {}) != []
    members = {"chunk": [{"type": "m.room.member"}]}
    assert response_errors("GET", V3 + "/rooms/{id}/members", 200, members) != []
