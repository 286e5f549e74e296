"""Lanes: what is due first."""

from federation.events.ids import EventId
from federation.transport.scheduling.lanes import Lane
from tests.federation.transport.memory_ports import JumpingClock

A, B, C = (EventId(f"${name}") for name in "abc")


def test_what_is_due_first_comes_first() -> None:
    lane = Lane(JumpingClock())
    assert lane.first() is None
    for event_id, due_s in ((A, 2.0), (B, 1.0), (C, 1.0)):
        lane.add(event_id, due_s)
    assert lane.first() == (1.0, B)
    lane.add(B, 5.0)
    assert lane.first() == (1.0, C)
    lane.drop(C)
    lane.drop(C)
    assert lane.first() == (2.0, A)
    assert (len(lane), A in lane, C in lane) == (2, True, False)


def test_what_is_hurried_is_due_in_its_order() -> None:
    lane = Lane(JumpingClock())
    for event_id, due_s in ((A, 50.0), (B, 40.0), (C, 1.0)):
        lane.add(event_id, due_s)
    lane.hurry(10.0)
    order = []
    while (first := lane.first()) is not None:
        order.append(first)
        lane.drop(first[1])
    assert order == [(1.0, C), (10.0, B), (10.0, A)]
