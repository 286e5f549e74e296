"""JSON that is nested deeply."""

from federation.limits import NESTING_MAX


def nested(depth: int) -> bytes:
    """Arrays in arrays."""
    return b"[" * depth + b"]" * depth


def deep(size: int) -> bytes:
    """Returns a value of that many bytes that is nested too deeply for anything but an event."""
    levels = NESTING_MAX + 1
    return b"[" * levels + b'"' + b"x" * (size - 2 * levels - 2) + b'"' + b"]" * levels
