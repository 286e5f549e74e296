"""The metrics that federation asks of its homeserver, which declares their names, labels and texts.

`inc` and `observe` take the values of a metric's labels in the order in which it declares them; the
types below say how many there are, and which values they can have.
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias, TypeVarTuple

Labels = TypeVarTuple("Labels")

PduResult: TypeAlias = Literal[
    "accepted", "softfailed", "rejected", "dropped", "undecided", "invalid", "known", "kept"
]
"""What became of a PDU: a verdict; `undecided`: given up, as what it needs can't be had; `invalid`:
no event of a room here; `known`: stored already; `kept`: waits for what it needs."""


class LabelledCounter(Protocol[*Labels]):
    """A number that only rises, for each combination of its labels' values."""

    def inc(self, *labels: *Labels, amount: int = 1) -> None: ...


class LabelledHistogram(Protocol[*Labels]):
    """Durations, for each combination of its labels' values."""

    def observe(self, seconds: float, *labels: *Labels) -> None: ...


class FederationMetrics(Protocol):
    """All that federation counts."""

    @property
    def federation_requests(self) -> LabelledHistogram[str]:
        """By endpoint."""

    @property
    def federation_refusals(self) -> LabelledCounter[str, str]:
        """By endpoint and `errcode`."""

    @property
    def federation_transactions_repeated(self) -> LabelledCounter[()]: ...

    @property
    def federation_pdus(self) -> LabelledCounter[PduResult]: ...

    @property
    def federation_pdus_waited(self) -> LabelledCounter[PduResult]: ...

    @property
    def federation_edus_ignored(self) -> LabelledCounter[Literal["unknown", "invalid"]]: ...

    @property
    def federation_gap_events(self) -> LabelledCounter[()]: ...

    @property
    def federation_states_on_anothers_word(self) -> LabelledCounter[()]: ...

    @property
    def federation_policy_requests(
        self,
    ) -> LabelledCounter[Literal["signed", "refused", "failed"]]: ...

    @property
    def federation_media_fetches(self) -> LabelledCounter[str]:
        """By `fetched` or the kind of failure."""

    @property
    def federation_pdus_sent(self) -> LabelledCounter[()]: ...

    @property
    def federation_edus_sent(self) -> LabelledCounter[()]: ...

    @property
    def federation_passed_over(self) -> LabelledCounter[()]: ...

    @property
    def federation_transactions_failed(self) -> LabelledCounter[str]:
        """By the kind of failure."""
