"""What other servers get to read of the room, held to the model: every endpoint that reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from federation.events.canonical_json import JsonObject
from federation.events.ids import EventId, ServerName, UserId, server_of
from federation.transport.requests.client import FederationError, ServerRequest, build_target
from tests.visibility.faults import Observation
from tests.visibility.model import Verdict, best

SHOW, HIDE = Verdict.SHOW, Verdict.HIDE
V1 = "/_matrix/federation/v1"
_WORDS = ("body", "topic", "displayname")
"""Content that no redaction leaves."""


class ServerChecks:
    """Asks everything as each of the other servers."""

    def __init__(self, observation: Observation) -> None:
        self._look, self._model, self._story = observation, observation.model, observation.story
        self._ids = {
            orjson.loads(event.raw)["hashes"]["sha256"]: event_id
            for event_id, event in self._model.events.items()
        }

    def _id_of(self, pdu: Any) -> EventId:
        """The ID of an event as servers get it; its content hash survives redaction."""
        return self._ids[pdu["hashes"]["sha256"]]

    async def check(self) -> None:
        """For all servers."""
        for name in "bcd":
            server = ServerName(name)
            await self._events(server)
            await self._graph(server)

    def _users(self, server: ServerName) -> list[UserId]:
        """All that were ever named, and somebody else."""
        keys = [one.state_key for one in self._model.events.values() if one.type == "m.room.member"]
        users = [UserId(key) for key in dict.fromkeys(keys) if key and server_of(key) == server]
        return [*users, UserId(f"@nobody:{server}")]

    def _is_in(self, server: ServerName) -> bool:
        return any(self._look.is_joined(user) for user in self._users(server))

    def _verdict(self, server: ServerName, event_id: EventId) -> Verdict:
        event = self._model.events[event_id]
        if not self._model.is_allowed(event_id):
            return HIDE
        is_in = self._is_in(server)
        return best(
            self._model.verdict(event, user, is_joined=is_in and self._may_have_joined(user))
            for user in self._users(server)
        )

    def _may_have_joined(self, user: UserId) -> bool:
        """Of a server that is in the room, any user that is in it will do for shared history."""
        return self._look.is_joined(user)

    async def _ask(
        self, server: ServerName, target: str, content: JsonObject | None = None
    ) -> dict[str, Any] | None:
        """The answer; None for a refusal."""
        self._look.questions += 1
        method = "GET" if content is None else "POST"
        client = self._story.servers[server].client
        try:
            return dict(
                await client.request(ServerRequest(ServerName("a"), method, target, content))
            )
        except FederationError as error:
            if error.status not in (403, 404):
                raise
            return None

    # Events

    async def _events(self, server: ServerName) -> None:
        observation, is_in = self._look, self._is_in(server)
        for event_id, row in list(observation.rows.items()):
            if EventId(event_id) not in self._model.events:
                continue
            answer = await self._ask(server, build_target(f"{V1}/event", event_id))
            verdict = self._verdict(server, EventId(event_id))
            where = f"federation event, {server}"
            if answer is None:
                if (verdict is SHOW or is_in) and row["live_index"] is not None:
                    observation.hidden(where, observation.name(event_id))
                continue
            self._pdus(server, answer["pdus"], where)

    def _pdus(self, server: ServerName, pdus: Sequence[Any], where: str) -> None:
        for pdu in pdus:
            event_id = self._id_of(pdu)
            verdict, row = self._verdict(server, event_id), self._look.rows[event_id]
            is_listed = any(word in pdu["content"] for word in _WORDS)
            if verdict is HIDE and is_listed and not row["outlier"]:
                self._look.leak(where, self._look.name(event_id))
            if verdict is HIDE and not self._is_in(server):
                self._look.leak(f"{where} (not in the room)", self._look.name(event_id))
            # What was fetched may have come redacted: other servers judge, too.
            has_it = any(word in orjson.loads(row["json"])["content"] for word in _WORDS)
            if verdict is SHOW and has_it and not is_listed:
                self._look.hidden(where, self._look.name(event_id))

    # State, history, auth chains

    async def _graph(self, server: ServerName) -> None:
        observation, room_id = self._look, self._story.room_id
        is_in = self._is_in(server)
        chosen = (
            observation.placed
            if len(observation.placed) < 8
            else observation.story.rng.sample(observation.placed, 8)
        )
        for event in chosen:
            event_id = event.event_id
            may = is_in or self._was_in(server, event_id)
            query = [("event_id", str(event_id))]
            state = await self._ask(server, build_target(f"{V1}/state_ids", room_id, query=query))
            whole = await self._ask(server, build_target(f"{V1}/state", room_id, query=query))
            auth = await self._ask(server, build_target(f"{V1}/event_auth", room_id, event_id))
            back = await self._ask(
                server,
                build_target(f"{V1}/backfill", room_id, query=[("v", event_id), ("limit", "100")]),
            )
            missing = await self._ask(
                server,
                build_target(f"{V1}/get_missing_events", room_id),
                {"latest_events": [event_id], "earliest_events": [], "limit": 20},
            )
            answers = {"state_ids": state, "state": whole, "event_auth": auth}
            for name, answer in answers.items():
                if answer is not None and not may:
                    observation.leak(f"{name}, {server}", observation.name(event_id))
                if answer is None and is_in:
                    observation.hidden(f"{name}, {server}", observation.name(event_id))
            if state is not None and set(state["pdu_ids"]) != set(
                self._model.before(event_id).values()
            ):
                observation.wrong(f"state_ids, {server}", observation.name(event_id))
            self._history(server, event_id, back, "backfill")
            self._history(server, event_id, missing, "get_missing_events")

    def _history(
        self, server: ServerName, event_id: EventId, answer: dict[str, Any] | None, name: str
    ) -> None:
        observation = self._look
        where = f"{name}, {server}"
        if answer is None:
            if self._is_in(server):
                observation.hidden(where, observation.name(event_id))
            return
        pdus = answer["pdus"] if "pdus" in answer else answer["events"]
        self._pdus(server, pdus, where)
        if name == "backfill" and self._is_in(server):
            told = {self._id_of(pdu) for pdu in pdus}
            for one in self._reached(event_id):
                if observation.rows[one]["live_index"] is not None and one not in told:
                    observation.hidden(where, observation.name(one))

    def _reached(self, event_id: EventId) -> set[EventId]:
        """The ancestors of an event that are reached without a gap."""
        found: set[EventId] = set()
        work = [event_id]
        while work:
            for parent in self._model.events[work.pop()].prev_events:
                row = self._look.rows.get(parent)
                if parent not in found and row is not None and not row["outlier"]:
                    found.add(parent)
                    work.append(parent)
        return found

    def _was_in(self, server: ServerName, event_id: EventId) -> bool:
        """Had the server a user in the room at an event?"""
        sides = [self._model.before(event_id), self._model.after(event_id)]
        return any(
            self._model.membership(side, user) == "join"
            for side in sides
            for user in self._users(server)
        )
