"""Which aliases of m.room.canonical_alias are new."""

import pytest

from federation.errors import MatrixError
from homeserver import limits
from homeserver.rules.rooms.canonical_aliases import new_aliases, without_alias


def test_only_aliases_that_were_not_there_before_are_new() -> None:
    old = {"alias": "#a:x", "alt_aliases": ["#b:x"]}
    new = {"alias": "#b:x", "alt_aliases": ["#a:x", "#c:x", "#c:x"]}
    assert new_aliases(old, new) == ("#c:x",)


@pytest.mark.parametrize("content", [{}, {"alias": ""}, {"alias": None, "alt_aliases": None}])
def test_unsetting_the_alias_adds_none(content: dict[str, object]) -> None:
    assert new_aliases({"alias": "#a:x"}, content) == ()


@pytest.mark.parametrize("content", [{"alias": 7}, {"alt_aliases": [7]}, {"alt_aliases": {"a": 1}}])
def test_aliases_must_be_strings(content: dict[str, object]) -> None:
    with pytest.raises(MatrixError) as caught:
        new_aliases({}, content)
    assert caught.value.errcode == "M_INVALID_PARAM"


def test_odd_old_content_does_not_matter() -> None:
    assert new_aliases({"alias": 7, "alt_aliases": [7, "#a:x"]}, {"alias": "#a:x"}) == ()


def test_new_aliases_are_limited_in_number() -> None:
    wanted = [f"#a{number}:x" for number in range(limits.CANONICAL_ALIASES_NEW + 1)]
    assert len(new_aliases({}, {"alt_aliases": wanted[1:]})) == limits.CANONICAL_ALIASES_NEW
    with pytest.raises(MatrixError):
        new_aliases({}, {"alt_aliases": wanted})


def test_an_alias_is_taken_out_wherever_it_stands() -> None:
    content = {"alias": "#a:x", "alt_aliases": ["#a:x", "#b:x"], "other": 1}
    assert without_alias(content, "#a:x") == {"alt_aliases": ["#b:x"], "other": 1}
    assert without_alias(content, "#b:x") == {"alias": "#a:x", "alt_aliases": ["#a:x"], "other": 1}
    assert without_alias(content, "#c:x") is None
    assert without_alias({"alt_aliases": 7}, "#c:x") is None
