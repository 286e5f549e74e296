"""Counts and read marks."""

from federation.events.ids import EventId, UserId
from homeserver.rules.push.unread import (
    NEVER,
    Count,
    EventLevels,
    ReadMarks,
    summed,
    tally,
    unread,
    whole_room,
)

ALICE, BOB = UserId("@a:x"), UserId("@b:x")


def event(place: int, usual: int, thread: str = "main", **others: int) -> EventLevels:
    """An event; `a` and `b` are Alice's and Bob's levels."""
    named = {UserId(f"@{name}:x"): level for name, level in others.items()}
    return EventLevels(place, EventId(f"$e{place}"), thread, usual, named)


EVENTS = [event(1, 1), event(2, 0, a=2), event(4, 1, "$t", a=0), event(7, 2)]


def test_events_are_counted_by_thread_and_level() -> None:
    """For one user, or for any who isn't named."""
    assert tally(EVENTS, ALICE, after=NEVER) == {"main": Count(3, 2)}
    assert tally(EVENTS, BOB, after=NEVER) == {"main": Count(2, 1), "$t": Count(1, 0)}
    assert tally(EVENTS, None, after=NEVER) == tally(EVENTS, BOB, after=NEVER)
    assert tally(EVENTS, ALICE, after=2) == {"main": Count(1, 1)}
    assert tally(EVENTS, BOB, after=7) == {}


def test_counts_are_added() -> None:
    """What is zero is left out."""
    total = summed({"main": Count(1, 1)}, {"main": Count(2), "$t": Count(1)}, {"$u": Count()})
    assert total == {"main": Count(3, 1), "$t": Count(1)}
    assert whole_room(total) == Count(4, 1)
    assert whole_room({}) == Count()


def test_marks_never_go_back() -> None:
    """That of the whole room is one of each thread."""
    marks = ReadMarks({})
    assert marks.move("$t", 5)
    assert not marks.move("$t", 5)
    assert marks.move("", 6)
    assert not marks.move("$t", 6)
    assert [marks.of(thread) for thread in ("", "main", "$t")] == [6, 6, 6]
    other = marks.copy()
    assert other.move("main", 9)
    assert [marks.of("main"), other.of("main"), other.of("$t")] == [6, 9, 6]


def test_what_is_read_is_not_counted() -> None:
    """Each thread has its own mark."""
    assert unread(EVENTS, BOB, ReadMarks({"main": 1}), after=NEVER) == {
        "main": Count(1, 1),
        "$t": Count(1),
    }
    assert unread(EVENTS, BOB, ReadMarks({"": 4}), after=NEVER) == {"main": Count(1, 1)}
    assert unread(EVENTS, BOB, ReadMarks({}), after=4) == {"main": Count(1, 1)}
