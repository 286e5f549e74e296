"""Flows and stages of interactive authentication."""

from __future__ import annotations

import pytest

from federation.events.canonical_json import JsonObject
from federation.events.ids import UserId
from homeserver.rules.accounts.login_flows import (
    APPSERVICE,
    DUMMY,
    EMAIL_IDENTITY,
    PASSWORD,
    RECAPTCHA,
    REGISTRATION_TOKEN,
    TERMS,
    TOKEN,
    Flow,
    Session,
    claimed_user,
    login_flows,
    registration_flows,
)


def session(**passed: str) -> Session:
    flows = ((PASSWORD, DUMMY), (REGISTRATION_TOKEN,))
    stages = {"password": PASSWORD, "dummy": DUMMY, "token": REGISTRATION_TOKEN}
    passed = {stages[name]: by for name, by in passed.items()}
    return Session("s", "op", UserId("@a:b"), flows, 0.0, passed)


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
    params: dict[str, JsonObject] = {DUMMY: {"a": 1}, TERMS: {"b": 2}}
    assert session(password="secret proof").body(params) == {
        "flows": [{"stages": [PASSWORD, DUMMY]}, {"stages": [REGISTRATION_TOKEN]}],
        "params": {DUMMY: {"a": 1}},
        "session": "s",
        "completed": [PASSWORD],
    }
    assert session().offers(DUMMY)
    assert not session().offers("m.login.sso")


def test_registration_asks_by_configuration() -> None:
    assert registration_flows("none") == ((DUMMY,),)
    assert registration_flows("token") == ((REGISTRATION_TOKEN,),)
    assert login_flows() == (
        {"type": PASSWORD},
        {"type": TOKEN, "get_login_token": True},
        {"type": APPSERVICE},
    )


@pytest.mark.parametrize(
    ("verification", "email", "captcha", "terms", "flows"),
    [
        ("none", "required", False, False, ((EMAIL_IDENTITY,),)),
        ("none", "optional", False, False, ((DUMMY,), (EMAIL_IDENTITY,))),
        ("token", "none", True, True, ((REGISTRATION_TOKEN, RECAPTCHA, TERMS),)),
        ("none", "none", False, True, ((TERMS,),)),
        ("token", "optional", False, False, (
            (REGISTRATION_TOKEN, DUMMY), (REGISTRATION_TOKEN, EMAIL_IDENTITY),
        )),
    ],
)  # fmt: skip
def test_registration_asks_for_what_is_configured(
    verification: str, email: str, captcha: bool, terms: bool, flows: tuple[Flow, ...]
) -> None:
    assert registration_flows(verification, email=email, captcha=captcha, terms=terms) == flows
    complete = [set(flow) for flow in flows]
    assert not any(one < other for one in complete for other in complete), "no flow begins another"


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
