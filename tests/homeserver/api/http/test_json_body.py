"""Reading of JSON bodies."""

from __future__ import annotations

import pytest

from federation.errors import MatrixError
from homeserver import limits
from homeserver.api.http.json_body import check_canonical, parse_object


def errcode(body: bytes) -> str:
    with pytest.raises(MatrixError) as caught:
        parse_object(body)
    assert caught.value.status == 400
    return caught.value.errcode


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{'a':1}", b'{"a":NaN}', b'{"a":"\xff"}', b'{"a":"\\ud800"}', b"{} x"]
)
def test_what_isnt_json_is_not_json(body: bytes) -> None:
    assert errcode(body) == "M_NOT_JSON"


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"x"', b"true"])
def test_what_isnt_an_object_is_bad_json(body: bytes) -> None:
    assert errcode(body) == "M_BAD_JSON"


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_nesting_is_bounded() -> None:
    parse_object(nested(limits.CLIENT_JSON_DEPTH))
    assert errcode(nested(limits.CLIENT_JSON_DEPTH + 1)) == "M_BAD_JSON"
    assert errcode(nested(100_000)) == "M_BAD_JSON"


def test_a_broad_object_isnt_a_deep_one() -> None:
    body = b'{"a":[' + b",".join([b"{}"] * 5000) + b"]}"
    assert len(parse_object(body)["a"]) == 5000


def test_arrays_and_objects_are_counted() -> None:
    def body(count: int) -> bytes:
        return b'{"a":[' + b",".join([b"[]"] * (count - 2)) + b"]}"

    assert len(parse_object(body(limits.CLIENT_JSON_CONTAINERS))["a"]) > 10
    assert errcode(body(limits.CLIENT_JSON_CONTAINERS + 1)) == "M_BAD_JSON"


@pytest.mark.parametrize("number", [b"1.5", b"1e3", b"9007199254740992", b"-9007199254740992"])
def test_numbers_that_canonical_json_cant_hold_are_refused(number: bytes) -> None:
    value = parse_object(b'{"a":[{"b":' + number + b"}]}")
    with pytest.raises(MatrixError) as caught:
        check_canonical(value)
    assert caught.value.errcode == "M_BAD_JSON"


def test_the_largest_numbers_pass() -> None:
    check_canonical(parse_object(b'{"a":[9007199254740991,-9007199254740991,true,null,"x"]}'))
