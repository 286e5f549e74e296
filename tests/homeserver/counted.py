"""What a server has counted, as Prometheus would read it."""

from __future__ import annotations

from homeserver.metrics import ServerMetrics


def counted(metrics: ServerMetrics, name: str, **labels: str) -> float:
    """Returns the sum of a counter's series that have these labels; `name` is without the prefix
    `freehold_` and the suffix `_total`."""
    return sum(
        sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == f"freehold_{name}_total" and labels.items() <= sample.labels.items()
    )
