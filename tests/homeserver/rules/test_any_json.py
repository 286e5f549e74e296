"""JSON of any depth: what an event of another server may hold is written and read back."""

from typing import Any

import pytest

from homeserver.rules.any_json import dump_any, load_any

FAST_WRITING, FAST_READING = 254, 1024  # levels


def nested(depth: int) -> Any:
    """Returns lists in lists; `json_of` is the same as text."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def json_of(depth: int) -> bytes:
    """Returns lists in lists as JSON."""
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    "depth",
    [1, FAST_WRITING, FAST_WRITING + 1, FAST_READING, FAST_READING + 1, 30_000],
)
def test_depth_is_no_reason_to_fail(depth: int) -> None:
    """An event is bounded by 65,536 bytes, so by some 32,000 levels."""
    assert dump_any(nested(depth)) == json_of(depth)
    assert dump_any(load_any(json_of(depth))) == json_of(depth)


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(2**53), 2**63, 1.5, "", "text\n\u2028ü\U0001f600", [], {}, {"": {"a": [1]}}],
)
def test_any_value_comes_back(value: Any) -> None:
    """Also what canonical JSON refuses: old rooms have it."""
    assert load_any(dump_any(value)) == value


def test_a_large_number_in_a_deep_value_comes_back() -> None:
    """On the slow path too."""
    value = nested(FAST_READING + 10)
    value.append(2**60)
    assert load_any(dump_any(value))[-1] == 2**60
    assert dump_any(load_any(dump_any(value))) == dump_any(value)


@pytest.mark.parametrize("text", [b"", b"{", b"nonsense", b"[" * 2000])
def test_what_isnt_json_is_an_error(text: bytes) -> None:
    """Whether the fast reader gave up on its depth or on its text."""
    with pytest.raises(ValueError):
        load_any(text)
