"""Times that come due: soonest first, put off, ended."""

from hypothesis import given
from hypothesis import strategies as st

from homeserver.rules.ephemeral.due_times import DueTimes


def test_keys_are_taken_when_their_time_has_come_the_soonest_first() -> None:
    due: DueTimes[str] = DueTimes()
    assert due.next_s() is None
    due.set("a", 3.0)
    due.set("b", 1.0)
    due.set("c", 9.0)
    assert due.next_s() == 1.0
    assert list(due.take(0.5)) == []
    assert list(due.take(3.0)) == ["b", "a"]
    assert list(due.take(3.0)) == []
    assert len(due) == 1


def test_a_time_is_put_off_brought_forward_and_ended() -> None:
    due: DueTimes[str] = DueTimes()
    due.set("late", 1.0)
    due.set("late", 5.0)
    due.set("soon", 5.0)
    due.set("soon", 1.0)
    due.set("never", 1.0)
    due.set("never", None)
    assert list(due.take(2.0)) == ["soon"]
    assert list(due.take(5.0)) == ["late"]
    assert due.next_s() is None


_STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 9))), max_size=30
)


@given(_STEPS, st.lists(st.integers(0, 9), max_size=5))
def test_what_is_taken_is_what_a_dictionary_says(
    steps: list[tuple[str, int | None]], looks: list[int]
) -> None:
    due: DueTimes[str] = DueTimes()
    plain: dict[str, int] = {}
    for key, time_s in steps:
        due.set(key, time_s)
        plain.pop(key, None)
        if time_s is not None:
            plain[key] = time_s
    for now_s in sorted(looks):
        expected = {key for key, time_s in plain.items() if time_s <= now_s}
        next_s = due.next_s()
        assert next_s is None if not plain else next_s is not None and next_s <= min(plain.values())
        assert set(due.take(now_s)) == expected
        for key in expected:
            del plain[key]
        assert len(due) == len(plain)


def test_a_time_that_moves_on_leaves_one_entry_behind() -> None:
    """So a user who types all day doesn't fill the queue."""
    due: DueTimes[str] = DueTimes()
    for time_s in range(10_000):
        due.set("a", float(time_s))
    assert len(due._queue) == 1
