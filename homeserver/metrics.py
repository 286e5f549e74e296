"""Counters and timers in memory, and their text for Prometheus.

Rules:
1. Counting costs about a microsecond and never fails; it is done on the event loop's thread only.
2. The number of series is bounded: further ones are counted under the label `overflow`, so a label
   with values from outside can't fill the memory.
3. The library that writes the text is imported when the text is first requested.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

from homeserver import limits

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of a timer's buckets."""

_Labels: TypeAlias = tuple[tuple[str, str], ...]
_OVERFLOW: _Labels = (("overflow", "true"),)


class _Timer:
    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS_S) + 1)
        self.seconds = 0.0


class MetricsStore:
    """Implements `federation.ports.Metrics`. Names are given without the prefix `freehold_`."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, _Labels], int] = {}
        self._timers: dict[tuple[str, _Labels], _Timer] = {}

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Adds to a counter."""
        key = (name, tuple(labels.items()))
        if key not in self._counts and len(self._counts) >= limits.METRIC_SERIES:
            key = (name, _OVERFLOW)
        self._counts[key] = self._counts.get(key, 0) + amount

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Adds a duration to a timer."""
        key = (name, tuple(labels.items()))
        timer = self._timers.get(key)
        if timer is None:
            if len(self._timers) >= limits.METRIC_SERIES:
                key = (name, _OVERFLOW)
            timer = self._timers.setdefault(key, _Timer())
        timer.buckets[bisect_left(BOUNDS_S, seconds)] += 1
        timer.seconds += seconds

    def value(self, name: str, **labels: str) -> int:
        """Returns the value of a counter."""
        return self._counts.get((name, tuple(labels.items())), 0)

    def text(self) -> bytes:
        """Returns everything in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        """Returns all series, grouped by name and label names, for the library."""
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        for (name, labels), amount in sorted(self._counts.items()):
            counter = CounterMetricFamily(f"freehold_{name}", name, labels=_names(labels))
            counter.add_metric(_values(labels), amount)
            yield counter
        for (name, labels), timer in sorted(self._timers.items(), key=lambda item: item[0]):
            histogram = HistogramMetricFamily(f"freehold_{name}", name, labels=_names(labels))
            histogram.add_metric(_values(labels), _cumulative(timer), timer.seconds)
            yield histogram


def _names(labels: _Labels) -> list[str]:
    return [name for name, _ in labels]


def _values(labels: _Labels) -> list[str]:
    return [value for _, value in labels]


def _cumulative(timer: _Timer) -> list[tuple[str, float]]:
    bounds = [*(str(bound) for bound in BOUNDS_S), "+Inf"]
    total, result = 0, []
    for bound, number in zip(bounds, timer.buckets, strict=True):
        total += number
        result.append((bound, float(total)))
    return result
