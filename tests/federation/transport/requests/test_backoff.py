"""Back-off: one state for all callers of a server."""

from federation.events.ids import ServerName
from federation.limits import (
    BACKOFF_RETRY_AFTER_S_MAX,
    BACKOFF_S_MAX,
    BACKOFF_S_MIN,
    BACKOFFS_REMEMBERED_MAX,
    ERROR_CHARACTERS_MAX,
)
from federation.transport.requests.backoff import Backoffs
from tests.federation.transport.memory_ports import JumpingClock

A = ServerName("a.test")


def test_the_wait_grows_up_to_its_bound() -> None:
    clock = JumpingClock()
    backoffs = Backoffs(clock, lambda: 0.999)
    waits = []
    for _ in range(20):
        backoffs.failed(A, "down")
        waits.append(backoffs.wait_s(A))
        clock.jump(backoffs.wait_s(A) + 1)
    assert waits == sorted(waits)
    assert waits[0] >= BACKOFF_S_MIN
    assert BACKOFF_S_MAX * 0.99 <= waits[-1] <= BACKOFF_S_MAX
    assert backoffs.wait_s(A) == 0


def test_a_sign_of_life_ends_it_and_is_told() -> None:
    backoffs = Backoffs(JumpingClock(), lambda: 0.5)
    heard: list[ServerName] = []
    backoffs.on_recovered(heard.append)
    backoffs.succeeded(A)
    assert not heard
    backoffs.failed(A, "down")
    assert backoffs.wait_s(A) > 0
    backoffs.succeeded(A)
    assert heard == [A]
    assert backoffs.wait_s(A) == 0


def test_a_longer_retry_after_counts_up_to_its_bound() -> None:
    backoffs = Backoffs(JumpingClock(), lambda: 0.0)
    backoffs.failed(A, "429", retry_after_s=100)
    assert backoffs.wait_s(A) == 100
    backoffs.failed(A, "429", retry_after_s=1e9)
    assert backoffs.wait_s(A) == BACKOFF_RETRY_AFTER_S_MAX


def test_what_was_kept_over_a_restart_counts_on() -> None:
    clock = JumpingClock()
    before = Backoffs(clock, lambda: 0.5).failed(A, "down", retry_after_s=60)
    backoffs = Backoffs(clock, lambda: 0.5)
    backoffs.restore(A, before)
    assert backoffs.wait_s(A) == 60
    assert backoffs.failed(A, "again").failing_since_ms == before.failing_since_ms


def test_a_clock_that_is_set_back_makes_no_wait_longer_than_it_was() -> None:
    clock = JumpingClock()
    backoffs = Backoffs(clock, lambda: 0.999)
    for failures in (1, 20):
        for _ in range(failures):
            backoffs.failed(A, "down")
        wait_s = backoffs.wait_s(A)
        for hours in (0.5, 5):
            clock.set_by(-hours * 3_600)
            assert backoffs.wait_s(A) <= wait_s
        clock.jump(wait_s + 1)
        assert backoffs.wait_s(A) == 0


def test_a_server_is_reachable_by_a_sign_of_life_until_it_fails() -> None:
    backoffs = Backoffs(JumpingClock(), lambda: 0.5)
    assert not backoffs.is_reachable(A)
    backoffs.succeeded(A)
    assert backoffs.is_reachable(A)
    backoffs.failed(A, "down")
    assert not backoffs.is_reachable(A)
    for number in range(BACKOFFS_REMEMBERED_MAX + 1):
        backoffs.succeeded(ServerName(f"{number}.test"))
    assert not backoffs.is_reachable(ServerName("0.test"))
    assert backoffs.is_reachable(ServerName("1.test"))


def test_so_much_of_an_error_is_kept() -> None:
    backoffs = Backoffs(JumpingClock(), lambda: 0.0)
    for length in (ERROR_CHARACTERS_MAX, ERROR_CHARACTERS_MAX + 1):
        kept = backoffs.failed(A, "x" * length).last_error
        assert kept == "x" * ERROR_CHARACTERS_MAX
