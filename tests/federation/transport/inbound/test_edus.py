"""EDUs: an origin speaks for its own users alone; what is malformed is ignored alone."""

import pytest

from federation.events.canonical_json import JsonObject
from federation.events.ids import ServerName
from federation.limits import (
    PRESENCE_AGO_MS_MAX,
    PRESENCE_STATUS_CHARACTERS_MAX,
    PRESENCE_UPDATES_PER_EDU_MAX,
    RECEIPTS_PER_EDU_MAX,
    TO_DEVICE_MESSAGE_ID_BYTES_MAX,
    TO_DEVICE_MESSAGES_PER_EDU_MAX,
)
from federation.ports import EduSink
from federation.transport.acl import ServerAcls
from federation.transport.inbound.edus import EduReceiver
from tests.federation.transport.loopback import Loopback, Peer, loopback
from tests.federation.transport.memory_ports import CountingMetrics, RecordingSink

ROOM = "!room:a.test"


async def receive(net: Loopback, edu: object) -> list[tuple[object, ...]]:
    """Returns what a.test's sink gets of an EDU of b.test."""
    peer: Peer = net.peers.get("a.test") or await net.peer("a.test")
    sink = RecordingSink()
    as_sink: EduSink = sink
    receiver = EduReceiver(
        peer.name, sink=as_sink, acls=ServerAcls(peer.rooms), metrics=CountingMetrics()
    )
    await receiver.receive(_b(), edu)
    return sink.calls


def _b() -> ServerName:
    return ServerName("b.test")


def edu(edu_type: str, **content: object) -> JsonObject:
    return {"edu_type": edu_type, "content": content}


def receipt(count: int = 1, user: str = "@bob{}:b.test") -> JsonObject:
    one = {"event_ids": ["$e"], "data": {"ts": 1}}
    return {"m.read": {user.format(i): one for i in range(count)}}


DEVICE_LIST = {"user_id": "@bob:b.test", "device_id": "D", "stream_id": 3, "prev_id": [2]}
TO_DEVICE = {"sender": "@bob:b.test", "type": "t", "message_id": "m"}


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (edu("m.typing", room_id=ROOM, user_id="@bob:b.test", typing=True), "typing"),
        (edu("m.receipt", **{ROOM: receipt()}), "receipts"),
        (edu("m.device_list_update", **DEVICE_LIST), "device_list_update"),
        (edu("m.signing_key_update", user_id="@bob:b.test", master_key={}), "signing_key_update"),
        (
            edu("m.presence", push=[{"user_id": "@bob:b.test", "presence": "online"}]),
            "presence",
        ),
        (edu("m.direct_to_device", **TO_DEVICE, messages={"@al:a.test": {"*": {}}}), "to_device"),
    ],
)
async def test_each_kind_reaches_the_sink(sent: JsonObject, name: str) -> None:
    async with loopback() as net:
        calls = await receive(net, sent)
        assert [call[0] for call in calls] == [name]


@pytest.mark.parametrize(
    "sent",
    [
        7,
        {},
        {"edu_type": "m.typing"},
        {"edu_type": ["x"], "content": {}},
        edu("m.unknown", x=1),
        edu("m.typing", room_id=ROOM, user_id="@alice:a.test", typing=True),
        edu("m.typing", room_id=ROOM, user_id="@carol:c.test", typing=True),
        edu("m.typing", room_id=ROOM, user_id="bob", typing=True),
        edu("m.typing", room_id="room", user_id="@bob:b.test", typing=True),
        edu("m.typing", room_id=ROOM, user_id="@bob:b.test", typing="yes"),
        edu("m.receipt", **{ROOM: receipt(user="@alice{}:a.test")}),
        edu("m.receipt", **{ROOM: {"m.read": {"@bob:b.test": {"event_ids": ["$a", "$b"]}}}}),
        edu("m.receipt", **{ROOM: {"m.read": 7}, "!x:a.test": 8}),
        edu("m.device_list_update", **{**DEVICE_LIST, "user_id": "@alice:a.test"}),
        edu("m.device_list_update", **{**DEVICE_LIST, "stream_id": "3"}),
        edu("m.device_list_update", **{**DEVICE_LIST, "prev_id": ["2"]}),
        edu("m.device_list_update", **{**DEVICE_LIST, "device_id": "x" * 256}),
        edu("m.device_list_update", **{**DEVICE_LIST, "keys": []}),
        edu("m.signing_key_update", user_id="@alice:a.test"),
        edu("m.signing_key_update", user_id="@bob:b.test", master_key=[]),
        edu("m.presence", push=[{"user_id": "@alice:a.test", "presence": "online"}]),
        edu("m.presence", push=[{"user_id": "@bob:b.test", "presence": "dancing"}]),
        edu("m.presence", push={}),
        *(
            edu("m.presence", push=[{"user_id": "@bob:b.test", "presence": "online", **wrong}])
            for wrong in (
                {"presence": ["online"]},
                {"last_active_ago": -1},
                {"last_active_ago": True},
                {"last_active_ago": "5"},
                {"last_active_ago": 1.5},
                {"status_msg": 5},
                {"status_msg": ["x"]},
                {"currently_active": "yes"},
                {"currently_active": None, "user_id": ["@bob:b.test"]},
            )
        ),
        edu("m.direct_to_device", **{**TO_DEVICE, "sender": "@al:a.test"}, messages={}),
        edu("m.direct_to_device", **TO_DEVICE, messages={"@carol:c.test": {"*": {}}}),
        edu("m.direct_to_device", **TO_DEVICE, messages=[]),
        edu("m.direct_to_device", **{**TO_DEVICE, "message_id": "x" * 129}, messages={}),
    ],
)
async def test_what_is_malformed_or_of_others_never_reaches_the_sink(sent: object) -> None:
    async with loopback() as net:
        assert await receive(net, sent) == []


async def test_the_foreign_part_is_dropped_and_the_rest_counts() -> None:
    async with loopback() as net:
        mixed = {**receipt()["m.read"], **receipt(user="@al{}:a.test")["m.read"]}
        calls = await receive(net, edu("m.receipt", **{ROOM: {"m.read": mixed}}))
        assert calls == [("receipts", {ROOM: receipt()})]
        push = [{"user_id": user, "presence": "online"} for user in ("@b:b.test", "@al:a.test")]
        calls = await receive(net, edu("m.presence", push=push))
        assert calls == [("presence", {"push": push[:1]})]


async def test_unknown_fields_of_presence_are_dropped_and_empty_ones_too() -> None:
    async with loopback() as net:
        whole = {
            "user_id": "@bob:b.test",
            "presence": "online",
            "last_active_ago": 5,
            "currently_active": False,
            "status_msg": "here",
        }
        push = [{**whole, "x": ["y" * 9_000]}, {**whole, "status_msg": None}]
        calls = await receive(net, edu("m.presence", push=push, z=1))
        assert calls == [
            ("presence", {"push": [whole, {k: v for k, v in whole.items() if k != "status_msg"}]})
        ]


async def test_limits_of_lists_hold_on_both_sides() -> None:
    async with loopback() as net:
        for over in (0, 1):
            messages: JsonObject = {
                f"D{i}": {} for i in range(TO_DEVICE_MESSAGES_PER_EDU_MAX + over)
            }
            update = {"user_id": "@bob:b.test", "presence": "online"}
            sent = [
                edu("m.receipt", **{ROOM: receipt(RECEIPTS_PER_EDU_MAX + over)}),
                edu("m.direct_to_device", **TO_DEVICE, messages={"@al:a.test": messages}),
                edu("m.presence", push=[update] * (PRESENCE_UPDATES_PER_EDU_MAX + over)),
            ]
            message_id = "x" * (TO_DEVICE_MESSAGE_ID_BYTES_MAX + over)
            content = {**TO_DEVICE, "message_id": message_id, "messages": {"@al:a.test": {"D": {}}}}
            sent.append(edu("m.direct_to_device", **content))
            status = "x" * (PRESENCE_STATUS_CHARACTERS_MAX + over)
            sent.append(edu("m.presence", push=[{**update, "status_msg": status}]))
            ago_ms = PRESENCE_AGO_MS_MAX + over
            sent.append(edu("m.presence", push=[{**update, "last_active_ago": ago_ms}]))
            for one in sent:
                assert len(await receive(net, one)) == 1 - over


async def test_edus_of_a_room_are_dropped_where_the_acl_denies_the_origin() -> None:
    async with loopback() as net:
        a = await net.peer("a.test")
        room_id = a.rooms.create_room(a.user("alice"))
        acl = {"allow": ["*"], "deny": ["b.*"]}
        a.rooms.send(room_id, a.user("alice"), "m.room.server_acl", acl, state_key="")
        typing = edu("m.typing", room_id=room_id, user_id="@bob:b.test", typing=True)
        assert await receive(net, typing) == []
        both = edu("m.receipt", **{room_id: receipt(), ROOM: receipt()})
        assert await receive(net, both) == [("receipts", {ROOM: receipt()})]
