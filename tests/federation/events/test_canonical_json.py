"""Canonical JSON: the specification's examples, refusals, depth, and two independent witnesses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import canonicaljson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.events import canonical_json
from federation.events.bounded_json import deep_json
from federation.events.canonical_json import NotCanonical
from federation.limits import INTEGER_MAX, QUOTED_CHARACTERS_MAX

VECTORS = json.loads(
    (Path(__file__).parents[2] / "vectors" / "canonical_json.json").read_text(encoding="utf-8")
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers(-INTEGER_MAX, INTEGER_MAX) | TEXT


def _nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)


VALUES = st.recursive(SCALARS, _nest, max_leaves=20)


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"k": value, "a": [level]}
    return value


@pytest.mark.parametrize(("text", "expected"), VECTORS["canonical"])
def test_an_example_of_the_specification_is_encoded_as_it_says(text: str, expected: str) -> None:
    assert canonical_json.encode(canonical_json.decode(text.encode())) == expected.encode()


@pytest.mark.parametrize("text", VECTORS["refused"])
def test_what_is_no_canonical_json_is_refused_when_read(text: str) -> None:
    with pytest.raises(NotCanonical):
        canonical_json.decode(text.encode())


@pytest.mark.parametrize("text", VECTORS["refused"])
def test_the_slow_reader_refuses_the_same(text: str) -> None:
    with pytest.raises(NotCanonical):
        canonical_json.check(deep_json.decode(text.encode(), allow_floats=False))


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        float("nan"),
        float("inf"),
        INTEGER_MAX + 1,
        -INTEGER_MAX - 1,
        2**64,
        {"a": {"b": [0.5]}},
        {1: "a"},
        {"a": "\ud800"},
        {"\udfff": 1},
        {"a": b"bytes"},
        {"a": {1, 2}},
        [object()],
    ],
)
def test_a_value_outside_of_the_domain_is_refused_when_written(value: object) -> None:
    with pytest.raises(NotCanonical):
        canonical_json.encode(value)


@pytest.mark.parametrize("value", [INTEGER_MAX, -INTEGER_MAX, 0, "\0", "\u2028", "\x7f", [], (1,)])
def test_a_value_at_the_edge_of_the_domain_is_written(value: object) -> None:
    expected = canonicaljson.encode_canonical_json(value)
    assert canonical_json.encode(value) == expected


@settings(deadline=None)
@given(VALUES)
def test_it_agrees_with_the_reference_package_on_the_whole_domain(value: object) -> None:
    expected = canonicaljson.encode_canonical_json(value)
    assert canonical_json.encode(value) == expected
    assert canonical_json.encode_lenient(value) == expected
    assert deep_json.encode(value) == expected


NUMBERS = st.integers() | st.integers(-(10**400), 10**400) | st.floats(allow_nan=False)
LENIENT_VALUES = st.recursive(
    SCALARS | NUMBERS.filter(lambda value: abs(value) != math.inf), _nest, max_leaves=20
)


@settings(deadline=None)
@given(LENIENT_VALUES)
def test_old_versions_agree_with_the_reference_package_on_floats_and_large_integers(
    value: object,
) -> None:
    expected = canonicaljson.encode_canonical_json(value)
    assert canonical_json.encode_lenient(value) == expected
    assert deep_json.encode(value) == expected
    for read in (
        canonical_json.decode_lenient(expected),
        deep_json.decode(expected, allow_floats=True),
    ):
        assert canonical_json.encode_lenient(read) == expected


REFUSED = (
    st.floats()
    | st.integers(min_value=INTEGER_MAX + 1)
    | st.integers(max_value=-INTEGER_MAX - 1)
    | st.text(st.characters(categories=["Cs"]), min_size=1, max_size=3)
    | st.binary(max_size=3)
)


@settings(deadline=None)
@given(VALUES, REFUSED, st.lists(st.sampled_from(["list", "key", "value"]), max_size=4))
def test_whatever_else_is_in_a_value_makes_it_refused(
    value: object, odd: object, path: list[str]
) -> None:
    broken: Any = odd
    for step in path:
        broken = [value, broken] if step == "list" else {"k": broken, "a": value}
    if path[:1] == ["key"] and isinstance(odd, str):
        broken = {odd: value}
    with pytest.raises(NotCanonical):
        canonical_json.encode(broken)


@settings(deadline=None)
@given(VALUES)
def test_what_is_written_reads_back_the_same(value: object) -> None:
    data = canonical_json.encode(value)
    assert canonical_json.decode(data) == value
    assert deep_json.decode(data, allow_floats=False) == value


@settings(deadline=None)
@given(VALUES, st.sampled_from([None, 1, 2]), st.booleans())
def test_the_slow_reader_agrees_on_other_spellings(
    value: object, indent: int | None, ascii_only: bool
) -> None:
    data = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    assert deep_json.decode(data, allow_floats=False) == value


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=30) | TEXT.map(str.encode))
def test_both_readers_refuse_the_same_garbage(data: bytes) -> None:
    def read(slow: bool) -> object:
        try:
            if not slow:
                return canonical_json.decode(data)
            value = deep_json.decode(data, allow_floats=False)
            canonical_json.check(value)
            return value
        except NotCanonical:
            return "refused"

    assert read(slow=True) == read(slow=False)


@pytest.mark.parametrize("depth", [252, 253, 254, 255, 1023, 1025, 5000])
def test_depth_is_no_reason_to_refuse(depth: int) -> None:
    data = canonical_json.encode(nested(depth))
    value = canonical_json.decode(data)
    assert canonical_json.encode(value) == data
    assert canonical_json.encode_lenient(canonical_json.decode_lenient(data)) == data


def test_a_float_is_found_at_any_depth() -> None:
    data = b'{"a":' * 3000 + b"1.5" + b"}" * 3000
    with pytest.raises(NotCanonical):
        canonical_json.decode(data)
    assert canonical_json.decode_lenient(data)


def test_an_integer_too_large_is_found_at_any_depth() -> None:
    data = b"[" * 3000 + str(INTEGER_MAX + 1).encode() + b"]" * 3000
    with pytest.raises(NotCanonical):
        canonical_json.decode(data)
    with pytest.raises(NotCanonical):
        canonical_json.encode(canonical_json.decode_lenient(data))


def test_a_deep_text_cut_short_is_refused() -> None:
    with pytest.raises(NotCanonical):
        canonical_json.decode(b"[" * 5000)
    with pytest.raises(NotCanonical):
        canonical_json.decode_lenient(b'{"a":' * 5000)


def test_old_versions_keep_floats_and_large_integers() -> None:
    value = canonical_json.decode_lenient(b'{"b":1e-7,"a":36893488147419103232,"c":2.50}')
    assert canonical_json.encode_lenient(value) == b'{"a":36893488147419103232,"b":1e-07,"c":2.5}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": object()}, "\ud800"])
def test_old_versions_refuse_what_json_cannot_hold(value: object) -> None:
    with pytest.raises(NotCanonical):
        canonical_json.encode_lenient(value)


@pytest.mark.parametrize("data", [b"\xff", b"NaN", b"{", b'"\xff"', b"[" * 2000 + b'"\xff"'])
def test_malformed_text_is_refused_leniently_too(data: bytes) -> None:
    for read in (canonical_json.decode_lenient, canonical_json.decode):
        with pytest.raises(NotCanonical):
            read(data)


def test_of_duplicate_keys_the_last_wins_in_both_readers() -> None:
    data = b'{"a":1,"a":2}'
    assert canonical_json.decode(data) == {"a": 2}
    assert deep_json.decode(data, allow_floats=False) == {"a": 2}


def test_the_slow_writer_keeps_floats_and_refuses_what_is_no_number() -> None:
    value = canonical_json.decode_lenient(b"[" * 3000 + b"1.5" + b"]" * 3000)
    assert canonical_json.encode_lenient(value) == b"[" * 3000 + b"1.5" + b"]" * 3000
    for odd in (float("nan"), float("-inf"), object()):
        with pytest.raises(NotCanonical):
            deep_json.encode(odd)


def test_an_integer_of_thousands_of_digits_is_refused_by_the_slow_reader() -> None:
    with pytest.raises(NotCanonical):
        deep_json.decode(b"[" + b"1" * 5000 + b"]", allow_floats=True)


def test_so_much_of_a_refused_float_is_quoted() -> None:
    """The text is another's: a reason that repeats it is logged, and stays short."""
    text = "1." + "5" * (QUOTED_CHARACTERS_MAX - 2)
    for digits in ("", "5"):
        with pytest.raises(NotCanonical) as refused:
            canonical_json.decode(f"[{text}{digits}]".encode())
        assert f"a float: {text} " in str(refused.value)
