"""The model's own rules, each by an example that the specification's text gives."""

from __future__ import annotations

import pytest

from federation.events.event import Event
from federation.events.ids import UserId
from tests.homeserver.engine.engine_world import V12, draft, message
from tests.homeserver.engine.history_world import BOB, Graph
from tests.visibility.model import Model, Verdict, best

ANNA = UserId("@anna:hs2")
SHOW, HIDE, EITHER = Verdict.SHOW, Verdict.HIDE, Verdict.EITHER


def setting(graph: Graph, value: str, last: Event) -> Event:
    content: dict[str, object] = {"history_visibility": value}
    return graph.add(draft("m.room.history_visibility", content, "", sender=BOB), last)


def member(graph: Graph, membership: str, last: Event) -> Event:
    by = ANNA if membership in ("join", "leave") else BOB
    content: dict[str, object] = {"membership": membership}
    return graph.add(draft("m.room.member", content, ANNA, sender=by), last)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("world_readable", [SHOW, SHOW, SHOW, SHOW, SHOW, SHOW, SHOW]),
        ("shared", [SHOW, SHOW, SHOW, SHOW, SHOW, SHOW, HIDE]),
        ("invited", [HIDE, SHOW, SHOW, SHOW, SHOW, SHOW, HIDE]),
        ("joined", [HIDE, HIDE, HIDE, SHOW, SHOW, SHOW, HIDE]),
        ("nonsense", [SHOW, SHOW, SHOW, SHOW, SHOW, SHOW, HIDE]),
    ],
)
def test_a_stay_from_the_invite_to_the_leave(value: str, expected: list[Verdict]) -> None:
    graph = Graph()
    last = setting(graph, value, graph.begin())
    events = [last := graph.add(message("before", BOB), last)]
    events.append(last := member(graph, "invite", last))
    events.append(last := graph.add(message("invited", BOB), last))
    events.append(last := member(graph, "join", last))
    events.append(last := graph.add(message("joined", BOB), last))
    events.append(last := member(graph, "leave", last))
    events.append(graph.add(message("after", BOB), last))
    model = Model(V12, graph.events)
    assert [model.verdict(one, ANNA, is_joined=False) for one in events] == expected


@pytest.mark.parametrize("order", [("world_readable", "joined"), ("joined", "world_readable")])
def test_a_change_of_visibility_is_seen_from_either_side(order: tuple[str, str]) -> None:
    graph = Graph()
    first = setting(graph, order[0], graph.begin())
    second = setting(graph, order[1], first)
    assert Model(V12, graph.events).verdict(second, ANNA, is_joined=False) is SHOW


def test_beside_a_stay_the_text_leaves_it_open() -> None:
    graph = Graph()
    start = graph.begin()
    aside = graph.add(message("aside", BOB), start)
    leave = member(graph, "leave", member(graph, "join", start))
    graph.add(message("merged", BOB), aside, leave)
    assert Model(V12, graph.events).verdict(aside, ANNA, is_joined=False) is EITHER


def test_state_is_that_of_the_room_while_the_reader_is_in_whatever_hides_its_events() -> None:
    graph = Graph()
    start = setting(graph, "joined", graph.begin())
    join = member(graph, "join", start)
    topic = graph.add(draft("m.room.topic", {"topic": "aside"}, "", sender=BOB), start)
    ban = member(graph, "ban", topic)
    model = Model(V12, graph.events)
    assert model.verdict(topic, ANNA, is_joined=False) is HIDE

    def topics(*later: Event) -> list[str | None]:
        arrivals = [one.event_id for one in (join, *later)]
        states = model.while_joined(ANNA, arrivals)
        return [state.get(("m.room.topic", "")) for state in states]

    assert topics(topic, ban) == [None, topic.event_id]
    assert topics(ban, topic) == [None]


def test_a_server_may_have_what_one_of_its_users_may_see() -> None:
    assert best([HIDE, SHOW, EITHER]) is SHOW
    assert best([HIDE, EITHER]) is EITHER
    assert best([]) is HIDE
