"""Points of low order are known in each encoding; all others pass."""

import hashlib

import pytest

from federation.events.curve25519 import has_low_order

P = 2**255 - 19
LOW = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P - 1,
    P,
    P + 1,
]


@pytest.mark.parametrize("number", LOW)
@pytest.mark.parametrize("top_bit", [0, 1 << 255])
def test_a_point_of_low_order_is_found(number: int, top_bit: int) -> None:
    """RFC 7748: the top bit is ignored."""
    assert has_low_order((number | top_bit).to_bytes(32, "little"))


def test_other_points_pass() -> None:
    points = [(9).to_bytes(32, "little"), (P - 2).to_bytes(32, "little")]
    points += [hashlib.sha256(bytes([n])).digest() for n in range(50)]
    assert not any(has_low_order(point) for point in points)
