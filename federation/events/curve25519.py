"""Curve25519 points that must not be used for key agreement.

A point of low order makes every shared secret all zeros, so that everybody can read messages
encrypted to it. The library multiplies by a multiple of eight, so exactly these points give zero.

Spec: client-server API, "One-time and fallback keys"; RFC 7748, section 6.1.
"""

from __future__ import annotations

from nacl.bindings import crypto_scalarmult

_ANY_SCALAR = bytes(range(32))


def has_low_order(point: bytes) -> bool:
    """Returns whether a point of 32 bytes is of low order, in whatever encoding."""
    try:
        return not any(crypto_scalarmult(_ANY_SCALAR, point))
    except RuntimeError:  # the library refuses a result of all zeros
        return True
