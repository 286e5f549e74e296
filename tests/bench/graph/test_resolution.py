"""Figures: state resolution of a two-way fork as a room grows and ages, what the compact auth
chains take, and auth checks per second."""

from __future__ import annotations

import functools
import gc
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, StateKey
from federation.events.room_versions import room_version
from federation.graph.admission import check_auth_chain
from federation.graph.auth.auth_rules import AuthState, check_auth
from federation.graph.resolution import chains as walks
from federation.graph.resolution.auth_chains import AuthChains
from federation.graph.resolution.chains import LoadEvent, loader
from federation.graph.resolution.state_resolution import resolve_deltas
from tests.federation.graph.auth_graph import woven
from tests.federation.graph.large_room import Delta, LargeRoom, forked

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]
RUNS = 9


def report(line: str) -> None:
    sys.stdout.write(line + "\n")


def never(event_id: EventId) -> bool:
    return False


def cpu_ms(work: Callable[[], object], runs: int = RUNS) -> tuple[float, float]:
    """Median and worst CPU milliseconds of some runs, after a first one that warms up."""
    work()
    times = []
    for _ in range(runs):
        gc.collect()
        start = time.process_time()
        work()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times), max(times)


def resolved(room: LargeRoom, deltas: Sequence[Delta], chains: AuthChains | None) -> object:
    return resolve_deltas(
        room.version,
        room.base,
        deltas,
        event=room.load,
        is_rejected=never,
        reached=room.citations.reached,
        chains=chains,
    )


SIZES = [(10, 0), (1_000, 0), (10_000, 0), (100_000, 0), (1_000, 1_000), (1_000, 5_000)]


@pytest.mark.parametrize("name", ["1", "10", "11", "12"])
def test_resolution_of_a_fork_as_the_room_grows(name: str) -> None:
    for members, level_changes in SIZES:
        room, deltas = forked(name, members, level_changes)
        kept = AuthChains()
        cold, cold_worst = cpu_ms(functools.partial(resolved, room, deltas, None))
        hot, hot_worst = cpu_ms(functools.partial(resolved, room, deltas, kept))
        report(
            f"resolution, version {name}, 10 conflicted keys, {members} members, {level_changes}"
            f" earlier changes of power levels: chains made for the call {cold:.2f} ms of CPU"
            f" (worst of {RUNS}: {cold_worst:.2f}), kept {hot:.2f} ({hot_worst:.2f})"
        )


def filled(starts: Sequence[EventId], load: LoadEvent) -> AuthChains:
    kept = AuthChains()
    kept.differing([starts, ()], load)
    return kept


def report_filling(told: str, events: Mapping[EventId, Event]) -> None:
    """What it takes to place all of some events."""
    load, starts = loader(events), list(events)
    median, _ = cpu_ms(lambda: filled(starts, load), 5)
    gc.collect()
    tracemalloc.start()
    kept = filled(starts, load)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    report(
        f"auth chains of {told}: {1000 * len(events) / median:,.0f} events per s,"
        f" {taken / len(kept):.0f} bytes per event ({kept.size_bytes / len(kept):.0f} as told)"
    )


def test_places_in_auth_chains() -> None:
    version = room_version("12")
    report_filling("100,000 members", LargeRoom(version, 100_000).events)
    report_filling("20,000 changes of power levels", LargeRoom(version, 10, 20_000).events)
    for lines in (16, 128, 129, 5_000):
        report_filling(f"5,000 events that each cite 10 of {lines} lines", woven(5_000, lines))


def three_questions(
    answering: ModuleType | AuthChains, ends: Sequence[EventId], load: LoadEvent
) -> None:
    """What a resolution asks of the chains of its conflicted events."""
    answering.differing([ends[:5], ends[5:]], load)
    answering.between(ends, load)
    answering.nearest(ends, load)


@pytest.mark.parametrize("lines", [16, 128, 129, 5_000])
def test_chains_made_to_be_costly_beside_a_walk(lines: int) -> None:
    events = woven(5_000, lines)
    load, ends = loader(events), list(events)[-10:]
    kept = AuthChains()
    plain, _ = cpu_ms(lambda: three_questions(walks, ends, load), 5)
    cold, _ = cpu_ms(lambda: three_questions(AuthChains(), ends, load), 5)
    hot, _ = cpu_ms(lambda: three_questions(kept, ends, load), 5)
    report(
        f"three questions on 5,000 events that each cite 10 of {lines} lines: walked {plain:.1f}"
        f" ms, asked of fresh chains {cold:.1f} ms, of kept ones {hot:.2f} ms"
    )


@pytest.mark.parametrize("name", ["10", "11", "12"])
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
