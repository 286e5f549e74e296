"""Figures: state resolution of a two-way fork as a room grows, and auth checks per second."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, StateKey
from federation.events.room_versions import room_version
from federation.graph.admission import check_auth_chain
from federation.graph.auth_rules import AuthState, check_auth
from federation.graph.state_resolution import resolve_deltas
from tests.federation.graph.large_room import LargeRoom, forked

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]
RUNS = 7


def report(line: str) -> None:
    sys.stdout.write(line + "\n")


def never(event_id: EventId) -> bool:
    return False


def cpu_ms(work: Callable[[], object]) -> tuple[float, float]:
    """Median and worst CPU milliseconds of some runs, after a first one that warms up."""
    work()
    times = []
    for _ in range(RUNS):
        gc.collect()
        start = time.process_time()
        work()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times), max(times)


@pytest.mark.parametrize("name", ["1", "11", "12"])
def test_resolution_of_a_fork_as_the_room_grows(name: str) -> None:
    sizes = [(10, 0), (1_000, 0), (10_000, 0), (100_000, 0), (1_000, 1_000), (1_000, 5_000)]
    for members, level_changes in sizes:
        room, deltas = forked(name, members, level_changes)

        def resolved(room: LargeRoom = room, deltas: object = deltas) -> object:
            return resolve_deltas(
                room.version,
                room.base,
                deltas,  # type: ignore[arg-type]
                event=room.load,
                is_rejected=never,
                reached=room.citations.reached,
            )

        median, worst = cpu_ms(resolved)
        report(
            f"resolution, version {name}, {members} members, 10 conflicted keys,"
            f" {level_changes} earlier changes of power levels:"
            f" {median:.2f} ms of CPU (worst of {RUNS}: {worst:.2f})"
        )


@pytest.mark.parametrize("name", ["11", "12"])
def test_events_checked_per_second(name: str) -> None:
    room = LargeRoom(room_version(name), 20_000)
    state: dict[StateKey, Event] = dict(room.state)
    auth_state = AuthState(room.version, state.get)
    joins = [event for event in state.values() if event.type == "m.room.member"]

    def against_a_state() -> None:
        for event in joins:
            assert check_auth(event, auth_state) is None

    median, _ = cpu_ms(against_a_state)
    report(f"auth rules against a state, version {name}: {1000 * len(joins) / median:,.0f} per s")
    events = list(room.events.values())
    median, _ = cpu_ms(lambda: check_auth_chain(events))
    report(f"checks 2 and 4 of a chain, version {name}: {1000 * len(events) / median:,.0f} per s")
