"""The oracle of graphs judges liars' events, too."""

from __future__ import annotations

from tests.homeserver.engine.engine_world import message
from tests.homeserver.engine.history_world import BOB, CAROL, Graph, enter, powers


def test_event_that_cites_a_rejected_event_beside_it_is_rejected_whatever_their_ids_are() -> None:
    graph = Graph()
    last = graph.add(enter(CAROL), graph.begin())
    refused = graph.add(powers({CAROL: 100}), last, cites={})
    cites = {**graph.before([last]), ("m.room.power_levels", ""): refused.event_id}
    beside = [graph.add(message(str(i), BOB), last, cites=cites) for i in range(12)]
    assert {one.event_id < refused.event_id for one in beside} == {True, False}
    assert graph.oracle.rejected.keys() == {refused.event_id, *(one.event_id for one in beside)}
