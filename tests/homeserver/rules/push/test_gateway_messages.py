"""What push gateways are sent and answer, held to the specification's schema."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from federation.events.ids import UserId
from homeserver.rules.push.gateway_messages import (
    EventNames,
    PushDevice,
    badge_message,
    event_message,
    parse_answer,
    tweaks_of,
)
from homeserver.rules.push.pushers import Pusher, PusherKey
from tests.spec.witness import check_request

ALICE = UserId("@alice:hs1")
SOUND = ["notify", {"set_tweak": "sound", "value": "default"}, {"set_tweak": "highlight"}]
EVENT: dict[str, Any] = {
    "event_id": "$event",
    "room_id": "!room:hs1",
    "type": "m.room.message",
    "sender": "@bob:hs1",
    "origin_server_ts": 1,
    "content": {"msgtype": "m.text", "body": "secret"},
    "unsigned": {"age": 1},
}
NAMES = EventNames("Bob", "Room", "#room:hs1")


def device(**data: Any) -> PushDevice:
    whole = {"url": "https://push.example/_matrix/push/v1/notify", "brand": "x", **data}
    pusher = Pusher(
        PusherKey("org.app", "key"), "http", "App", "Phone", "", "en", orjson.dumps(whole)
    )
    return PushDevice(pusher, ALICE, 12_345_678)


def sent(
    to: PushDevice, event: dict[str, Any], actions: list[Any], unread: int = 3
) -> dict[str, Any]:
    return read(event_message(to, event, NAMES, actions=actions, unread=unread))


def read(body: bytes) -> dict[str, Any]:
    check_request("POST", "/_matrix/push/v1/notify", body)
    notification: dict[str, Any] = orjson.loads(body)["notification"]
    return notification


def test_all_of_an_event_is_told() -> None:
    assert sent(device(), EVENT, SOUND) == {
        "event_id": "$event",
        "room_id": "!room:hs1",
        "type": "m.room.message",
        "sender": "@bob:hs1",
        "sender_display_name": "Bob",
        "room_name": "Room",
        "room_alias": "#room:hs1",
        "prio": "high",
        "content": EVENT["content"],
        "counts": {"unread": 3},
        "devices": [
            {
                "app_id": "org.app",
                "pushkey": "key",
                "pushkey_ts": 12_345,
                "data": {"brand": "x"},
                "tweaks": {"sound": "default", "highlight": True},
            }
        ],
    }


def test_event_id_only_tells_no_more_than_ids() -> None:
    told = sent(device(format="event_id_only"), EVENT, ["notify"])
    assert told.pop("devices")[0]["data"] == {"brand": "x", "format": "event_id_only"}
    assert told == {
        "event_id": "$event",
        "room_id": "!room:hs1",
        "counts": {"unread": 3},
        "prio": "low",
    }


def test_names_that_are_not_there_are_left_out() -> None:
    told = read(event_message(device(), EVENT, EventNames(), actions=[], unread=0))
    assert not told.keys() & {"sender_display_name", "room_name", "room_alias"}
    assert told["counts"] == {}


@pytest.mark.parametrize(
    ("kind", "actions", "priority"),
    [
        ("m.room.message", ["notify"], "low"),
        ("m.room.message", ["notify", {"set_tweak": "sound", "value": "ring"}], "high"),
        ("m.room.message", ["notify", {"set_tweak": "highlight", "value": False}], "low"),
        ("m.room.encrypted", ["notify"], "high"),
    ],
)
def test_what_alerts_has_a_high_priority(kind: str, actions: list[Any], priority: str) -> None:
    assert sent(device(), {**EVENT, "type": kind}, actions)["prio"] == priority


@pytest.mark.parametrize(("target", "is_target"), [(ALICE, True), ("@carol:hs1", False)])
def test_a_member_event_says_whether_the_user_is_meant(target: str, is_target: bool) -> None:
    event = {
        **EVENT,
        "type": "m.room.member",
        "state_key": target,
        "content": {"membership": "invite"},
    }
    assert sent(device(), event, ["notify"])["user_is_target"] is is_target
    assert "user_is_target" not in sent(device(format="event_id_only"), event, ["notify"])


@pytest.mark.parametrize("unread", [0, 7])
def test_a_count_alone_is_told_also_when_it_is_zero(unread: int) -> None:
    told = read(badge_message(device(), unread=unread))
    assert told["counts"] == {"unread": unread}
    assert not told.keys() & {"event_id", "room_id", "content"}
    assert told["devices"][0]["tweaks"] == {}


def test_deep_content_is_sent() -> None:
    content: dict[str, Any] = {}
    for _ in range(600):
        content = {"a": content}
    body = event_message(device(), {**EVENT, "content": content}, NAMES, actions=[], unread=1)
    assert body.count(b'{"a":') == 600


def test_actions_that_are_no_tweaks_are_ignored() -> None:
    actions = ["notify", 1, {"set_tweak": 1}, {"x": 1}, {"set_tweak": "a", "value": 1}]
    assert tweaks_of(actions) == {"a": 1}


@pytest.mark.parametrize(
    ("body", "rejected"),
    [
        (b'{"rejected":["a","b"]}', {"a", "b"}),
        (b'{"rejected":[]}', set()),
        (b"{}", set()),
        (b'{"rejected":[1,"a",null]}', {"a"}),
        (b'{"rejected":"a"}', None),
        (b'{"rejected":{}}', None),
        (b"[]", None),
        (b"null", None),
        (b"", None),
        (b"<html>", None),
        (b"[" * 50_000, None),
    ],
)
def test_answers(body: bytes, rejected: set[str] | None) -> None:
    assert parse_answer(body) == rejected
