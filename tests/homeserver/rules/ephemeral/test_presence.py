"""Presence as it is told, and as it is asked for."""

from typing import Any

import orjson
import pytest

from federation.errors import MatrixError
from federation.events.ids import UserId
from homeserver import limits
from homeserver.rules.ephemeral.presence import (
    Shown,
    content_of,
    parse_profile,
    parse_request,
    presence_event,
)


@pytest.mark.parametrize(
    ("shown", "active_s", "content"),
    [
        (
            Shown("online", True, "here"),
            8.5,
            {
                "presence": "online",
                "currently_active": True,
                "last_active_ago": 1500,
                "status_msg": "here",
            },
        ),
        (
            Shown("online"),
            0.0,
            {"presence": "online", "currently_active": False, "last_active_ago": 10_000},
        ),
        (Shown("unavailable"), None, {"presence": "unavailable"}),
        (Shown("offline"), 11.0, {"presence": "offline", "last_active_ago": 0}),
    ],
)
def test_what_is_told(shown: Shown, active_s: float | None, content: dict[str, Any]) -> None:
    assert content_of(shown, active_s, 10.0) == content


def test_an_event_has_the_profile() -> None:
    event = presence_event(UserId("@a:b"), {"presence": "online"}, {"displayname": "A"})
    assert orjson.loads(event) == {
        "type": "m.presence",
        "sender": "@a:b",
        "content": {"presence": "online", "displayname": "A"},
    }


def test_a_profiles_name_and_picture_are_told_if_they_are_ones() -> None:
    stored = {"displayname": b'"A"', "avatar_url": b'"mxc://b/c"', "m.tz": b'"Europe/Berlin"'}
    assert parse_profile(stored) == {"displayname": "A", "avatar_url": "mxc://b/c"}
    assert parse_profile({"displayname": b"1", "avatar_url": b'"http://b/c"'}) == {}
    assert parse_profile(None) == {}


@pytest.mark.parametrize("state", ["online", "offline", "unavailable"])
@pytest.mark.parametrize("status", [None, "", "x" * limits.PRESENCE_STATUS_CHARACTERS])
def test_a_request(state: str, status: str | None) -> None:
    body: dict[str, Any] = {"presence": state, "status_msg": status, "last_active_ago": 5}
    assert parse_request(body) == (state, status or None)
    assert parse_request({"presence": state}) == (state, None)


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"status_msg": "x"}, "M_MISSING_PARAM"),
        ({"presence": "busy"}, "M_INVALID_PARAM"),
        ({"presence": None}, "M_INVALID_PARAM"),
        ({"presence": ["online"]}, "M_INVALID_PARAM"),
        ({"presence": "online", "status_msg": 1}, "M_BAD_JSON"),
        ({"presence": "online", "status_msg": {"a": 1}}, "M_BAD_JSON"),
        (
            {"presence": "online", "status_msg": "x" * (limits.PRESENCE_STATUS_CHARACTERS + 1)},
            "M_INVALID_PARAM",
        ),
    ],
)
def test_what_isnt_presence_is_refused(body: Any, errcode: str) -> None:
    with pytest.raises(MatrixError) as refused:
        parse_request(body)
    assert (refused.value.status, refused.value.errcode) == (400, errcode)
