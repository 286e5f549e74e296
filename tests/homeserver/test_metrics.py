"""The metrics that a server declares, and their text for Prometheus."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from homeserver import limits
from homeserver.metrics import (
    BOUNDS_S,
    OVERFLOW,
    BoundedCounter,
    BoundedHistogram,
    FollowedGauge,
    ServerMetrics,
)
from tests.homeserver.counted import counted

DOCUMENT = Path(__file__).parents[2] / "docs" / "operate.md"
_ROW = re.compile(r"^\| `freehold_(\w+?)(_total)?` \| ?([^|]*)\|", re.MULTILINE)


@pytest.fixture
def metrics() -> ServerMetrics:
    return ServerMetrics()


def read(metrics: ServerMetrics) -> dict[str, Metric]:
    """Returns what Prometheus reads, by name."""
    families = list(text_string_to_metric_families(metrics.text().decode()))
    assert len({one.name for one in families}) == len(families), "each is described once"
    return {one.name: one for one in families}


def test_a_counter_is_read_by_its_labels(metrics: ServerMetrics) -> None:
    metrics.rechecks.inc("verified")
    metrics.rechecks.inc("verified", amount=2)
    metrics.rechecks.inc("corrected")
    family = read(metrics)["freehold_rechecks"]
    assert family.type == "counter"
    assert {(one.name, one.labels["result"], one.value) for one in family.samples} == {
        ("freehold_rechecks_total", "verified", 3.0),
        ("freehold_rechecks_total", "corrected", 1.0),
    }


def test_a_counter_without_labels_is_there_from_the_start(metrics: ServerMetrics) -> None:
    (sample,) = read(metrics)["freehold_http_failures"].samples
    assert (sample.labels, sample.value) == ({}, 0.0)
    metrics.http_failures.inc()
    assert counted(metrics, "http_failures") == 1


def test_a_duration_counts_in_each_bucket_that_is_not_below_it(metrics: ServerMetrics) -> None:
    metrics.federation_requests.observe(0.0025, "send")
    metrics.federation_requests.observe(99.0, "send")
    family = read(metrics)["freehold_federation_requests"]
    assert family.type == "histogram"
    values = {(one.name, one.labels.get("le")): one.value for one in family.samples}
    bucket = "freehold_federation_requests_bucket"
    assert values[bucket, "0.001"] == 0.0
    assert values[bucket, "0.0025"] == values[bucket, str(BOUNDS_S[-1])] == 1.0
    assert values[bucket, "+Inf"] == 2.0
    assert values["freehold_federation_requests_sum", None] == pytest.approx(99.0025)
    assert {one.labels["endpoint"] for one in family.samples} == {"send"}


def test_series_are_bounded(metrics: ServerMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "METRIC_SERIES", 2)
    for method in ("GET", "PUT", "X1", "X2", "GET"):
        metrics.http_request_seconds.observe(0.1, method, "none", "405")
    counts = {
        (one.labels["method"], one.labels["route"]): one.value
        for one in read(metrics)["freehold_http_request_seconds"].samples
        if one.name.endswith("_count")
    }
    assert counts == {("GET", "none"): 2.0, ("PUT", "none"): 1.0, (OVERFLOW, OVERFLOW): 2.0}


def test_a_followed_value_is_read_when_the_metrics_are(
    metrics: ServerMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "METRIC_SERIES", 2)
    lag = [3]
    metrics.appservice_lag.follow(lambda: lag[0], "irc")
    lag[0] = 5
    for name in ("b", "c"):
        metrics.appservice_lag.follow(lambda: 0, name)
    family = read(metrics)["freehold_appservice_lag"]
    assert family.type == "gauge"
    assert {(one.labels["appservice"], one.value) for one in family.samples} == {
        ("irc", 5.0),
        ("b", 0.0),
    }
    metrics.appservice_lag.clear()
    assert read(metrics)["freehold_appservice_lag"].samples == []


def test_each_server_counts_for_itself(metrics: ServerMetrics) -> None:
    other = ServerMetrics()
    other.task_failures.inc("feed")
    assert counted(metrics, "task_failures") == 0
    assert counted(other, "task_failures", task="feed") == 1


def test_each_metric_says_what_it_counts(metrics: ServerMetrics) -> None:
    for name, family in read(metrics).items():
        assert len(family.documentation.split()) > 2, name


def test_the_operators_page_lists_each_metric_with_its_labels(metrics: ServerMetrics) -> None:
    listed = {
        name: (bool(is_counter), re.findall(r"`(\w+)`", labels))
        for name, is_counter, labels in _ROW.findall(DOCUMENT.read_text())
    }
    declared = {
        name: (isinstance(one, BoundedCounter), list(one.label_names))
        for name, one in vars(metrics).items()
        if isinstance(one, BoundedCounter | BoundedHistogram | FollowedGauge)
    }
    assert listed == declared
    assert {f"freehold_{name}" for name in declared} == read(metrics).keys()
    assert f"at most {limits.METRIC_SERIES:,} series" in DOCUMENT.read_text()
