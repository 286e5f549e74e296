"""Flows and stages of interactive authentication."""

from __future__ import annotations

import pytest

from homeserver.rules.accounts.login_flows import (
    DUMMY,
    PASSWORD,
    REGISTRATION_TOKEN,
    Session,
    claimed_user,
    login_flows,
    registration_flows,
)


def session(**passed: str) -> Session:
    flows = ((PASSWORD, DUMMY), (REGISTRATION_TOKEN,))
    stages = {"password": PASSWORD, "dummy": DUMMY, "token": REGISTRATION_TOKEN}
    return Session("s", "op", "@a:b", flows, 0.0, {stages[name]: by for name, by in passed.items()})


def test_one_whole_flow_is_enough_and_half_a_one_isnt() -> None:
    assert not session().is_done()
    assert not session(password="x").is_done()
    assert session(password="x", dummy="").is_done()
    assert session(token="x").is_done()


def test_a_session_is_for_one_operation_of_one_user() -> None:
    assert session().is_for("op", "@a:b")
    assert not session().is_for("other", "@a:b")
    assert not session().is_for("op", None)


def test_the_body_tells_what_is_left() -> None:
    assert session(password="secret proof").body() == {
        "flows": [{"stages": [PASSWORD, DUMMY]}, {"stages": [REGISTRATION_TOKEN]}],
        "params": {},
        "session": "s",
        "completed": [PASSWORD],
    }
    assert session().offers(DUMMY)
    assert not session().offers("m.login.sso")


def test_registration_asks_by_configuration() -> None:
    assert registration_flows("none") == ((DUMMY,),)
    assert registration_flows("token") == ((REGISTRATION_TOKEN,),)
    assert login_flows() == ({"type": PASSWORD},)


@pytest.mark.parametrize(
    ("auth", "user"),
    [
        ({"identifier": {"type": "m.id.user", "user": "a"}}, "a"),
        ({"identifier": {"type": "m.id.user", "user": "a"}, "user": "b"}, "a"),
        ({"user": "b"}, "b"),
        ({"identifier": None, "user": "b"}, "b"),
        ({"identifier": {"type": "m.id.thirdparty", "user": "a"}, "user": "b"}, None),
        ({"identifier": {"type": "m.id.user", "user": 5}}, None),
        ({"user": 5}, None),
        ({}, None),
    ],
)
def test_a_user_is_named_in_two_ways(auth: dict[str, object], user: str | None) -> None:
    assert claimed_user(auth) == user
