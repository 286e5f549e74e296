"""The trie of routes over raw paths."""

from __future__ import annotations

import pytest

from federation.errors import MatrixError
from homeserver.api.http.router import Router


@pytest.fixture
def dispatch() -> Router[str]:
    made: Router[str] = Router()
    made.add("PUT", "/rooms/{roomId}/send/{type}/{txn}", "send")
    made.add("GET", "/rooms/{roomId}/state/{type}", "state")
    made.add("GET", "/rooms/{roomId}/state/{type}/{key}", "state with key")
    made.add("PUT", "/rooms/{roomId}/state/{type}/{key}", "put state")
    made.add("GET", "/rooms/special/state", "literal")
    made.add("GET", "/profile/{userId}", "profile")
    return made


def refusal(dispatch: Router[str], method: str, path: str) -> tuple[int, str]:
    with pytest.raises(MatrixError) as caught:
        dispatch.find(method, path)
    return caught.value.status, caught.value.errcode


def test_parameters_are_decoded_once_after_the_split(dispatch: Router[str]) -> None:
    match = dispatch.find("PUT", "/rooms/%21a%2Fb%3Ahs1/send/m.room%2Emessage/%2523")
    assert match.value == "send"
    assert match.params == {"roomId": "!a/b:hs1", "type": "m.room.message", "txn": "%23"}
    assert match.template == "/rooms/{roomId}/send/{type}/{txn}"


def test_text_beyond_ascii_and_broken_escapes_stay(dispatch: Router[str]) -> None:
    assert dispatch.find("GET", "/profile/%C3%A4").params == {"userId": "ä"}
    assert dispatch.find("GET", "/profile/ä").params == {"userId": "ä"}
    assert dispatch.find("GET", "/profile/100%25%zz").params == {"userId": "100%%zz"}


@pytest.mark.parametrize("part", ["%00", "a%00b", "%FF", "%C3", "%ED%A0%80"])
def test_nul_and_what_isnt_utf8_is_refused(dispatch: Router[str], part: str) -> None:
    assert refusal(dispatch, "GET", f"/profile/{part}") == (400, "M_INVALID_PARAM")


def test_an_empty_last_part_is_a_parameter_where_there_is_one(dispatch: Router[str]) -> None:
    match = dispatch.find("GET", "/rooms/x/state/m.room.name/")
    assert (match.value, match.params["key"]) == ("state with key", "")
    assert dispatch.find("GET", "/rooms/x/state/m.room.name").value == "state"


@pytest.mark.parametrize(
    "path", ["", "/", "/rooms", "/rooms/x", "/profile/a/", "/profile/a/b", "//profile/a", "/x/../y"]
)
def test_an_unknown_path_is_404(dispatch: Router[str], path: str) -> None:
    assert refusal(dispatch, "GET", path) == (404, "M_UNRECOGNIZED")


def test_another_method_is_405_and_names_those_there_are(dispatch: Router[str]) -> None:
    with pytest.raises(MatrixError) as caught:
        dispatch.find("DELETE", "/rooms/x/state/t/k")
    assert (caught.value.status, caught.value.errcode) == (405, "M_UNRECOGNIZED")
    assert caught.value.headers == {"Allow": "GET, PUT"}


def test_head_is_answered_as_get(dispatch: Router[str]) -> None:
    assert dispatch.find("HEAD", "/profile/a").value == "profile"


def test_a_literal_wins_but_leads_nobody_astray(dispatch: Router[str]) -> None:
    assert dispatch.find("GET", "/rooms/special/state").value == "literal"
    match = dispatch.find("PUT", "/rooms/special/send/t/1")
    assert (match.value, match.params["roomId"]) == ("send", "special")


def test_a_route_that_is_there_twice_is_refused(dispatch: Router[str]) -> None:
    with pytest.raises(ValueError, match="two values"):
        dispatch.add("GET", "/profile/{other}", "again")
    with pytest.raises(ValueError, match="slash"):
        dispatch.add("GET", "profile", "x")
