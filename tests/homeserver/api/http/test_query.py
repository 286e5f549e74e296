"""Decoding of query strings."""

from __future__ import annotations

import pytest

from federation.errors import MatrixError
from homeserver import limits
from homeserver.api.http.query import Query


def test_values_are_decoded_and_the_first_counts() -> None:
    query = Query("a=1&a=2&b=%C3%A4+x&c=")
    assert query.get("a") == "1"
    assert query.all("a") == ["1", "2"]
    assert (query.get("b"), query.get("c"), query.get("d")) == ("ä x", "", None)


@pytest.mark.parametrize("raw", ["a=%FF", "a=%00", "a=\0", "%00=1"])
def test_nul_and_what_isnt_utf8_is_refused(raw: str) -> None:
    with pytest.raises(MatrixError) as caught:
        Query(raw)
    assert (caught.value.status, caught.value.errcode) == (400, "M_INVALID_PARAM")


def test_the_number_of_parameters_is_bounded() -> None:
    assert len(Query("&".join(["a=1"] * limits.QUERY_FIELDS)).all("a")) == limits.QUERY_FIELDS
    with pytest.raises(MatrixError):
        Query("&".join(["a=1"] * (limits.QUERY_FIELDS + 1)))


def test_numbers_have_bounds() -> None:
    longest = limits.QUERY_NUMBER_CHARACTERS * "9"
    query = Query(f"low=-1&high=1000&word=x&dot=1.5&long={longest}&huge={longest}9")
    assert query.integer("long", 10, least=0, most=100) == 100
    assert query.integer("none", 10, least=0, most=100) == 10
    assert query.integer("high", 10, least=0, most=100) == 100
    for name in ("low", "word", "dot", "huge"):
        with pytest.raises(MatrixError):
            query.integer(name, 10, least=0, most=100)


def test_flags_are_true_or_false() -> None:
    query = Query("yes=true&no=false&odd=1")
    assert (query.flag("yes"), query.flag("no"), query.flag("none")) == (True, False, None)
    with pytest.raises(MatrixError):
        query.flag("odd")
