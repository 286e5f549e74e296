"""What a lying server answers: each lie makes something else of an honest answer.

1. Events are left out: of gaps, of history, of auth chains; single ones are denied. What the liar
   withholds (`Attacker.hidden`) is always left out.
2. States leave entries out, a ban say; or name an older event of a key, as in the problem cases of
   MSC4297 (an outdated join rule or power level in a /state_ids answer).
3. A join's answer lacks a part of the state.
"""

from __future__ import annotations

from collections.abc import Callable

from federation.events.canonical_json import JsonObject
from federation.events.event import InvalidEvent, parse_pdu
from federation.events.ids import EventId
from federation.events.room_versions import RoomVersion
from tests.simulation.attacker import Attacker
from tests.simulation.memory_tables import Fields, Tables
from tests.simulation.world import World

_RULING = ("m.room.power_levels", "m.room.join_rules")


class Lies:
    """The last server's answers."""

    def __init__(self, world: World, attacker: Attacker) -> None:
        self._world, self._attacker, self._rng = world, attacker, world.rng
        self._server = world.servers[-1]

    def install(self) -> None:
        """From now on the liar lies as the plan has it."""
        by_path: dict[str, tuple[str, Callable[[JsonObject], JsonObject | None]]] = {
            "get_missing_events": ("/get_missing_events/", self._gap),
            "backfill": ("/v1/backfill/", self._history),
            "event": ("/v1/event/", self._one),
            "event_auth": ("/event_auth/", self._chain),
            "state_ids": ("/state_ids/", self._state),
            "outdated state_ids": ("/state_ids/", self._outdated),
            "send_join": ("/send_join/", self._join),
        }
        hides = "withheld fork" in self._world.plan.attacks
        wanted = {*self._world.plan.lies, *(("get_missing_events", "event") if hides else ())}
        for name in by_path:
            if name in wanted:
                path, lie = by_path[name]
                self._server.lies[path] = self._counted(name, lie)

    def _counted(
        self, name: str, lie: Callable[[JsonObject], JsonObject | None]
    ) -> Callable[[JsonObject], JsonObject | None]:
        def told(answer: JsonObject) -> JsonObject | None:
            lied = lie(answer)
            if lied is not None and lied != answer:
                self._world.met[f"lie: {name}"] += 1
                self._world.note(f"a lie in {name}")
            return lied

        return told

    def _is_in_plan(self, name: str) -> bool:
        return name in self._world.plan.lies

    # Events left out

    def _gap(self, answer: JsonObject) -> JsonObject:
        events = self._told(answer["events"])
        if self._is_in_plan("get_missing_events"):
            events = [one for one in events if self._rng.random() < 0.5]
        return {**answer, "events": events}

    def _history(self, answer: JsonObject) -> JsonObject:
        events = [one for one in self._told(answer["pdus"]) if self._rng.random() < 0.7]
        for one in events:
            if self._rng.random() < 0.1:
                one["content"]["body"] = "not what was hashed"
        return {**answer, "pdus": events}

    def _one(self, answer: JsonObject) -> JsonObject:
        events = self._told(answer["pdus"])
        if self._is_in_plan("event") and self._rng.random() < 0.3:
            events = []
        return {**answer, "pdus": events}

    def _chain(self, answer: JsonObject) -> JsonObject:
        chain = [one for one in answer["auth_chain"] if self._rng.random() < 0.7]
        return {**answer, "auth_chain": chain}

    def _told(self, pdus: list[JsonObject]) -> list[JsonObject]:
        """Without what is withheld."""
        return [one for one in pdus if self._id(one) not in self._attacker.hidden]

    def _id(self, pdu: JsonObject) -> EventId | None:
        versions: dict[str, RoomVersion] = {
            room.room_id: room.version for room in self._world.rooms
        }
        version = versions.get(str(pdu.get("room_id")), self._world.rooms[0].version)
        try:
            return parse_pdu(pdu, version).event_id
        except InvalidEvent:
            return None

    # False states

    def _state(self, answer: JsonObject) -> JsonObject:
        kept = [
            one
            for one in answer["pdu_ids"]
            if self._row(one)["type"] == "m.room.create" or self._rng.random() < 0.6
        ]
        return {**answer, "pdu_ids": kept}

    def _outdated(self, answer: JsonObject) -> JsonObject:
        """An older power level or join rule event in place of the newer one."""
        given = []
        for event_id in answer["pdu_ids"]:
            row = self._row(event_id)
            older = [
                one["event_id"]
                for one in self._tables.events.values()
                if one["type"] == row["type"] in _RULING
                and (one["room_row_id"], one["state_key"]) == (row["room_row_id"], row["state_key"])
                and one["verdict"] == 0
            ]
            given.append(self._rng.choice(older) if older else event_id)
        return {**answer, "pdu_ids": given}

    def _join(self, answer: JsonObject) -> JsonObject:
        state = [
            one
            for one in answer["state"]
            if one["type"] in ("m.room.create", *_RULING) or self._rng.random() < 0.6
        ]
        return {**answer, "state": state}

    @property
    def _tables(self) -> Tables:
        return self._server.disk.tables

    def _row(self, event_id: str) -> Fields:
        return self._tables.events[event_id]
