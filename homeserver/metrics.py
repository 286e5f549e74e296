"""The metrics of one server, for Prometheus: each is declared once, in `ServerMetrics`.

Rules:
1. A metric is an attribute, so an unknown one, or a wrong number of labels, is a type error.
2. Counting costs about a microsecond and never fails; it is done on the event loop's thread only.
3. The number of a metric's series is bounded: further ones are counted with `overflow` as the value
   of every label, so a label with values from outside can't fill the memory.
4. Each server of a process has its own registry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, TypeVarTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from homeserver import limits

NAMESPACE = "freehold"
OVERFLOW = "overflow"

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of a histogram's buckets."""

# Without it, each series has a second one with the time of its creation, in the whole process.
disable_created_metrics()  # type: ignore[no-untyped-call]

_Metric = TypeVar("_Metric", Counter, Histogram)
_Labels = TypeVarTuple("_Labels")


class _Series(Generic[_Metric]):
    """The series of a metric by the values of its labels: the library's own look-up takes longer
    than counting, and has no bound."""

    def __init__(self, metric: _Metric, *, is_labelled: bool) -> None:
        self._metric: _Metric = metric
        self._series: dict[tuple[object, ...], _Metric] = {} if is_labelled else {(): metric}

    def of(self, labels: tuple[object, ...]) -> _Metric:
        series = self._series.get(labels)
        if series is None:
            if len(self._series) >= limits.METRIC_SERIES:
                labels = (OVERFLOW,) * len(labels)
            series = self._series[labels] = self._metric.labels(*labels)
        return series


class BoundedCounter(Generic[*_Labels]):
    """A counter with a bounded number of series; `labels` are the names of its labels."""

    def __init__(
        self, registry: CollectorRegistry, name: str, help_text: str, *labels: *_Labels
    ) -> None:
        self.label_names = names = tuple(str(label) for label in labels)
        counter = Counter(name, help_text, names, namespace=NAMESPACE, registry=registry)
        self._series = _Series(counter, is_labelled=bool(names))

    def inc(self, *labels: *_Labels, amount: int = 1) -> None:
        """Adds to the series with these values of the labels."""
        self._series.of(labels).inc(amount)


class BoundedHistogram(Generic[*_Labels]):
    """Durations, in `BOUNDS_S`, with a bounded number of series; `labels` are the names of its
    labels."""

    def __init__(
        self, registry: CollectorRegistry, name: str, help_text: str, *labels: *_Labels
    ) -> None:
        self.label_names = names = tuple(str(label) for label in labels)
        histogram = Histogram(
            name, help_text, names, namespace=NAMESPACE, registry=registry, buckets=BOUNDS_S
        )
        self._series = _Series(histogram, is_labelled=bool(names))

    def observe(self, seconds: float, *labels: *_Labels) -> None:
        """Adds a duration to the series with these values of the labels."""
        self._series.of(labels).observe(seconds)


class FollowedGauge(Generic[*_Labels]):
    """Values that are read when the metrics are; `labels` are the names of its labels."""

    def __init__(
        self, registry: CollectorRegistry, name: str, help_text: str, *labels: *_Labels
    ) -> None:
        self.label_names = names = tuple(str(label) for label in labels)
        self._gauge = Gauge(name, help_text, names, namespace=NAMESPACE, registry=registry)
        self._followed = 0

    def follow(self, value: Callable[[], float], *labels: *_Labels) -> None:
        """Reads the series with these values of the labels from `value` from now on."""
        self._followed += 1
        if self._followed <= limits.METRIC_SERIES:
            self._gauge.labels(*labels).set_function(value)

    def clear(self) -> None:
        """Drops all series."""
        self._followed = 0
        self._gauge.clear()


class ServerMetrics:
    """All metrics of one server. Implements `federation.metrics.FederationMetrics`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.http_request_seconds = BoundedHistogram(
            registry,
            "http_request_seconds",
            "Requests answered, by the route's template (`none` where none fits), in seconds",
            "method",
            "route",
            "status",
        )
        self.http_failures = BoundedCounter(
            registry,
            "http_failures",
            "Requests answered with 500, each with a traceback in the log",
        )
        self.task_failures = BoundedCounter(
            registry,
            "task_failures",
            "Failures of long-lived tasks, which are started again",
            "task",
        )
        self.state_resolutions = BoundedCounter(
            registry,
            "state_resolutions",
            "State resolutions of rooms' forks, by whether one changed the state other than by the "
            "newest event",
            "changed",
        )
        self.rechecks = BoundedCounter(
            registry,
            "rechecks",
            "Verdicts made again that had rested on another server's word for a room's state: "
            "`verified` as they were, or `corrected`",
            "result",
        )
        self.mails = BoundedCounter(
            registry,
            "mails",
            "Tries to send an e-mail: `sent`, `refused` for good by the mail server, or `failed`",
            "result",
        )
        self.media_job_seconds = BoundedHistogram(
            registry,
            "media_job_seconds",
            "Pictures and pages read in the sandbox, in seconds without the wait for a turn: "
            "`done`, `unreadable`, `too_large`, `failed`, `busy` where too many waited, "
            "`unavailable` or `abandoned`",
            "job",
            "result",
        )
        self.appservice_lag = FollowedGauge(
            registry,
            "appservice_lag",
            "Entries of the log that an application service hasn't got yet",
            "appservice",
        )
        self.presence_changes = BoundedCounter(
            registry,
            "presence_changes",
            "Changes of users' presence that others are told of, by whether they are `ours` or "
            "of `others`",
            "of",
        )
        self.presence_users = FollowedGauge(
            registry, "presence_users", "Users whose presence is kept: `ours`, or of `others`", "of"
        )
        self._declare_received(registry)
        self._declare_sent(registry)
        self._declare_pushes(registry)

    def _declare_received(self, registry: CollectorRegistry) -> None:
        self.federation_requests = BoundedHistogram(
            registry,
            "federation_requests",
            "Requests of other servers, by endpoint, in seconds",
            "endpoint",
        )
        self.federation_refusals = BoundedCounter(
            registry,
            "federation_refusals",
            "Requests of other servers that were refused, by endpoint and error code",
            "endpoint",
            "code",
        )
        self.federation_transactions_repeated = BoundedCounter(
            registry,
            "federation_transactions_repeated",
            "Transactions that other servers sent again",
        )
        self.federation_pdus = BoundedCounter(
            registry,
            "federation_pdus",
            "Events in transactions of other servers, by what became of them at once: a verdict, "
            "`invalid`, `known` already, or `kept` until what it needs is here",
            "result",
        )
        self.federation_pdus_waited = BoundedCounter(
            registry,
            "federation_pdus_waited",
            "Events of other servers that had to wait, by what became of them: a verdict, or "
            "`undecided` where they were given up",
            "result",
        )
        self.federation_edus_ignored = BoundedCounter(
            registry,
            "federation_edus_ignored",
            "EDUs of other servers that were ignored, since they are of an `unknown` type or "
            "`invalid`",
            "reason",
        )
        self.federation_gap_events = BoundedCounter(
            registry,
            "federation_gap_events",
            "Events fetched from other servers to fill gaps before an event received",
        )
        self.federation_states_on_anothers_word = BoundedCounter(
            registry,
            "federation_states_on_anothers_word",
            "Events judged by the state that another server says was before them",
        )

    def _declare_sent(self, registry: CollectorRegistry) -> None:
        self.federation_policy_requests = BoundedCounter(
            registry,
            "federation_policy_requests",
            "Events shown to policy servers, by whether they were `signed` or `refused`, or the "
            "request `failed`",
            "result",
        )
        self.federation_media_fetches = BoundedCounter(
            registry,
            "federation_media_fetches",
            "Media and thumbnails that were asked of other servers: `fetched`, or the kind of "
            "failure",
            "result",
        )
        self.federation_pdus_sent = BoundedCounter(
            registry, "federation_pdus_sent", "Events sent to other servers, once for each server"
        )
        self.federation_edus_sent = BoundedCounter(
            registry, "federation_edus_sent", "EDUs sent to other servers, once for each server"
        )
        self.federation_transactions_failed = BoundedCounter(
            registry,
            "federation_transactions_failed",
            "Transactions that couldn't be delivered and are sent again, by the kind of failure",
            "kind",
        )
        self.federation_passed_over = BoundedCounter(
            registry,
            "federation_passed_over",
            "Events and EDUs never delivered to a server, since it finds them too large",
        )

    def _declare_pushes(self, registry: CollectorRegistry) -> None:
        self.pushes_sent = BoundedCounter(
            registry,
            "pushes_sent",
            "Notifications that push gateways took: of an `event`, or of the `count` of unread "
            "ones alone",
            "of",
        )
        self.pushes_failed = BoundedCounter(
            registry,
            "pushes_failed",
            "Notifications that push gateways didn't take, by the reason: `unreachable`, `failed`, "
            "`busy` or `refused`",
            "reason",
        )
        self.pushers_rejected = BoundedCounter(
            registry,
            "pushers_rejected",
            "Pushers deleted because their gateway rejected the push key",
        )

    def text(self) -> bytes:
        """Returns everything in Prometheus' text format."""
        return generate_latest(self.registry)
