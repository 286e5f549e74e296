"""Counters and timers."""

from __future__ import annotations

import pytest

from homeserver import limits
from homeserver.metrics import MetricsStore


def test_counters_and_timers_are_written_for_prometheus() -> None:
    metrics = MetricsStore()
    metrics.count("sends")
    metrics.count("sends", 2)
    metrics.count("answers", status="200")
    metrics.observe("wait_seconds", 0.002, route="/x")
    metrics.observe("wait_seconds", 99.0, route="/x")
    text = metrics.text().decode()
    assert "freehold_sends_total 3.0" in text
    assert 'freehold_answers_total{status="200"} 1.0' in text
    assert 'freehold_wait_seconds_bucket{le="0.001",route="/x"} 0.0' in text
    assert 'freehold_wait_seconds_bucket{le="0.0025",route="/x"} 1.0' in text
    assert 'freehold_wait_seconds_bucket{le="+Inf",route="/x"} 2.0' in text
    assert metrics.value("sends") == 3
    assert metrics.value("nothing") == 0


def test_series_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "METRIC_SERIES", 2)
    metrics = MetricsStore()
    for number in range(5):
        metrics.count("things", label=str(number))
        metrics.observe("times", 1.0, label=str(number))
    assert metrics.value("things", overflow="true") == 3
    assert 'freehold_times_count{overflow="true"} 3.0' in metrics.text().decode()
