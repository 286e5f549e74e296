"""Pushers as clients set them: what is refused, and how."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from federation.errors import MatrixError
from federation.https_urls import HttpsUrl
from homeserver import limits
from homeserver.rules.push.pushers import (
    Pusher,
    PusherKey,
    gateway_of,
    parse_gateway,
    parse_request,
    pusher_json,
)

URL = "https://push.example/_matrix/push/v1/notify"
KEY = {"app_id": "org.example.app", "pushkey": "key"}
BODY: dict[str, Any] = {
    **KEY,
    "kind": "http",
    "app_display_name": "App",
    "device_display_name": "Phone",
    "lang": "en",
    "data": {"url": URL, "format": "event_id_only", "brand": "x"},
}


def body(**more: Any) -> dict[str, Any]:
    return {**BODY, **more}


def refusal(given: dict[str, Any]) -> tuple[int, str]:
    with pytest.raises(MatrixError) as raised:
        parse_request(given)
    return raised.value.status, raised.value.errcode


def test_a_pusher_is_kept_as_it_was_set() -> None:
    request = parse_request(body(profile_tag="tag", append=True))
    assert request.append
    assert request.pusher is not None
    assert orjson.loads(orjson.dumps(pusher_json(request.pusher))) == body(profile_tag="tag")


def test_a_pusher_without_a_profile_tag_shows_none() -> None:
    request = parse_request(body())
    assert not request.append
    assert request.pusher is not None
    assert "profile_tag" not in pusher_json(request.pusher)


def test_kind_null_deletes_and_needs_nothing_else() -> None:
    request = parse_request({**KEY, "kind": None})
    assert request.pusher is None
    assert request.key == PusherKey("org.example.app", "key")


@pytest.mark.parametrize("name", ["kind", "app_id", "pushkey", *list(BODY)[3:]])
def test_a_missing_field_is_named(name: str) -> None:
    given = body()
    del given[name]
    with pytest.raises(MatrixError, match=name) as raised:
        parse_request(given)
    assert (raised.value.status, raised.value.errcode) == (400, "M_MISSING_PARAM")


@pytest.mark.parametrize("name", list(BODY))
def test_a_field_of_another_type_is_refused(name: str) -> None:
    assert refusal(body(**{name: 1}))[0] == 400


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("app_id", limits.PUSHER_APP_ID_CHARACTERS),
        ("pushkey", limits.PUSHER_KEY_BYTES),
        ("app_display_name", limits.PUSHER_TEXT_CHARACTERS),
        ("lang", limits.PUSHER_TEXT_CHARACTERS),
        ("profile_tag", limits.PUSHER_TEXT_CHARACTERS),
    ],
)
def test_texts_are_bounded(name: str, most: int) -> None:
    parse_request(body(**{name: "x" * most}))
    assert refusal(body(**{name: "x" * (most + 1)})) == (400, "M_INVALID_PARAM")
    assert refusal(body(**{name: "x\0"})) == (400, "M_INVALID_PARAM")


def test_a_push_key_is_bounded_in_bytes() -> None:
    parse_request(body(pushkey="ü" * (limits.PUSHER_KEY_BYTES // 2)))
    too_long = "ü" * (limits.PUSHER_KEY_BYTES // 2 + 1)
    assert refusal(body(pushkey=too_long)) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize("name", ["app_id", "pushkey"])
def test_names_are_not_empty(name: str) -> None:
    assert refusal(body(**{name: ""})) == (400, "M_INVALID_PARAM")


def test_data_is_bounded() -> None:
    room = limits.PUSHER_DATA_BYTES - len(orjson.dumps({"url": URL, "x": ""}))
    parse_request(body(data={"url": URL, "x": "a" * room}))
    assert refusal(body(data={"url": URL, "x": "a" * (room + 1)})) == (413, "M_TOO_LARGE")


def test_kinds_and_formats_that_are_unknown_are_refused() -> None:
    assert refusal(body(kind="sms")) == (400, "M_INVALID_PARAM")
    assert refusal(body(data={"url": URL, "format": "less"})) == (400, "M_INVALID_PARAM")
    assert refusal(body(data={"url": URL, "format": None})) == (400, "M_INVALID_PARAM")
    assert refusal(body(data={})) == (400, "M_MISSING_PARAM")
    assert refusal(body(data={"url": 1})) == (400, "M_BAD_JSON")
    assert refusal(body(append=1)) == (400, "M_BAD_JSON")


@pytest.mark.parametrize(
    ("url", "host", "port", "header"),
    [
        (URL, "push.example", 443, "push.example"),
        (URL.replace("push.example", "PUSH.example:80"), "push.example", 80, "push.example:80"),
        (URL.replace("push.example", "10.0.0.1"), "10.0.0.1", 443, "10.0.0.1"),
        (URL.replace("push.example", "[::1]:444"), "::1", 444, "[::1]:444"),
    ],
)
def test_gateways_are_https_at_one_path(url: str, host: str, port: int, header: str) -> None:
    address = parse_gateway(url)
    assert address == HttpsUrl(host, port, "/_matrix/push/v1/notify")
    assert address.authority == header


def test_a_query_of_a_gateway_is_kept() -> None:
    address = parse_gateway(URL + "?a=b&c")
    assert address is not None
    assert address.target == "/_matrix/push/v1/notify?a=b&c"


@pytest.mark.parametrize(
    "url",
    [
        "",
        URL.replace("https", "http"),
        URL + "/",
        URL + "#x",
        URL + "?\r\nHost: x",
        URL.replace("/v1/", "/v2/"),
        "https:///_matrix/push/v1/notify",
        URL.replace("push.example", "user:password@push.example"),
        URL.replace("push.example", "push.example:0"),
        URL.replace("push.example", "push.example:99999"),
        URL.replace("push.example", "push.example:x"),
        URL.replace("push.example", "push example"),
        URL.replace("push.example", "püsh.example"),
        URL.replace("push.example", "push_example<>"),
        URL.replace("push.example", "[::1"),
        "https://push.example/a/..%2f_matrix/push/v1/notify",
    ],
)
def test_other_addresses_are_no_gateways(url: str) -> None:
    assert parse_gateway(url) is None
    assert refusal(body(data={"url": url})) == (400, "M_INVALID_PARAM")


def test_addresses_are_bounded() -> None:
    most = limits.PUSHER_URL_CHARACTERS
    assert parse_gateway(f"{URL}?{'x' * (most - len(URL) - 1)}") is not None
    assert parse_gateway(f"{URL}?{'x' * (most - len(URL))}") is None


def test_a_pusher_of_another_kind_has_no_gateway() -> None:
    http, texts = parse_request(body()).pusher, ("App", "Phone", "", "en")
    assert http is not None
    assert gateway_of(http) == parse_gateway(URL)
    assert gateway_of(Pusher(http.key, "other", *texts, data=b"{}")) is None


def test_a_pusher_of_mails_is_named_by_its_address() -> None:
    email = body(kind="email", app_id="m.email", pushkey="anna@mail.example", data={})
    request = parse_request(email)
    assert request.pusher is not None
    assert (request.pusher.kind, gateway_of(request.pusher)) == ("email", None)
    assert refusal({**email, "app_id": "org.example.app"}) == (400, "M_INVALID_PARAM")
    too_long = "ß" * (limits.EMAIL_LOCAL_CHARACTERS // 2 + 1) + "@mail.example"  # once it is folded
    for address in (
        too_long,
        "anna",
        "anna@mail.example\r\nBcc: x@y",
        "<anna@mail.example>",
        "a,b@c.d",
    ):
        assert refusal({**email, "pushkey": address}) == (400, "M_INVALID_PARAM")
