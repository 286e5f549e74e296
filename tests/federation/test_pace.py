"""The slowest pace of a transfer."""

from __future__ import annotations

import pytest

from federation.pace import Pace, TooSlow


def test_a_transfer_at_the_rate_goes_on_and_a_slower_one_ends() -> None:
    at_rate, slower = (Pace(bytes_per_s=100, patience_s=10) for _ in range(2))
    for _ in range(1_000):
        at_rate.note(100, 1.0)
    for _ in range(15):
        slower.note(40, 1.0)
    with pytest.raises(TooSlow, match="100 bytes a second"):
        slower.note(0, 1.5)


def test_a_pause_is_borne_and_made_up_for() -> None:
    pace = Pace(bytes_per_s=100, patience_s=10)
    for _ in range(3):
        pace.note(0, 10.0)
        pace.note(1_000, 0.0)
    pace.note(0, 10.0)
    with pytest.raises(TooSlow):
        pace.note(0, 0.01)


def test_a_fast_beginning_is_no_credit() -> None:
    pace = Pace(bytes_per_s=100, patience_s=10)
    pace.note(1_000_000, 0.0)
    with pytest.raises(TooSlow):
        pace.note(0, 10.01)
