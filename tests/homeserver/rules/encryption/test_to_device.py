"""Messages to devices: the shape of a request, its bounds, and the EDUs made of it."""

import json
from typing import Any

import pytest

from federation.errors import MatrixError
from federation.events.ids import DeviceId, UserId
from homeserver import limits
from homeserver.rules.encryption.to_device import (
    ALL_DEVICES,
    DeviceMessage,
    build_edu,
    build_message,
    encode_content,
    parse_messages,
    split_for_edus,
)

ALICE, BOB = UserId("@alice:hs.test"), UserId("@bob:hs.test")
DEVICE = DeviceId("DEV")


def message(content: bytes = b"{}", user_id: UserId = BOB, device: str = "DEV") -> DeviceMessage:
    """Returns a message."""
    return DeviceMessage(user_id, DeviceId(device), content)


def content_of(size: int) -> dict[str, str]:
    """Returns a content of this many bytes of JSON."""
    return {"a": "x" * (size - len('{"a":""}'))}


def test_messages_are_read_in_order() -> None:
    """By user, then by device; a star is for all of a user's devices."""
    found = parse_messages({BOB: {"DEV": {"n": 1}, "*": {}}, ALICE: {"DEV": {"n": 2}}})
    assert found == [
        DeviceMessage(BOB, DEVICE, b'{"n":1}'),
        DeviceMessage(BOB, ALL_DEVICES, b"{}"),
        DeviceMessage(ALICE, DEVICE, b'{"n":2}'),
    ]
    assert parse_messages({}) == []
    assert parse_messages({BOB: {}}) == []


@pytest.mark.parametrize(
    ("value", "errcode"),
    [
        (None, "M_BAD_JSON"),
        ([], "M_BAD_JSON"),
        ("text", "M_BAD_JSON"),
        ({BOB: None}, "M_BAD_JSON"),
        ({BOB: []}, "M_BAD_JSON"),
        ({BOB: {"DEV": None}}, "M_BAD_JSON"),
        ({BOB: {"DEV": "text"}}, "M_BAD_JSON"),
        ({BOB: {"DEV": [{}]}}, "M_BAD_JSON"),
        ({"bob": {"DEV": {}}}, "M_INVALID_PARAM"),
        ({"": {"DEV": {}}}, "M_INVALID_PARAM"),
        ({"@bob": {"DEV": {}}}, "M_INVALID_PARAM"),
    ],
)
def test_malformed_messages_are_refused(value: object, errcode: str) -> None:
    """None of them is delivered then."""
    with pytest.raises(MatrixError) as refused:
        parse_messages(value)
    assert (refused.value.status, refused.value.errcode) == (400, errcode)


@pytest.mark.parametrize("device", ["", "x" * 256, "a\0b"])
def test_a_device_id_has_bounds(device: str) -> None:
    """It is a key in a database."""
    with pytest.raises(MatrixError):
        parse_messages({BOB: {device: {}}})
    assert parse_messages({BOB: {"x" * 255: {}}})[0].device_id == "x" * 255


def test_a_request_has_a_bounded_number_of_messages() -> None:
    """Whatever users they are for."""
    full: dict[str, Any] = {f"D{number}": {} for number in range(limits.TO_DEVICE_RECIPIENTS)}
    assert len(parse_messages({BOB: full})) == limits.TO_DEVICE_RECIPIENTS
    with pytest.raises(MatrixError) as refused:
        parse_messages({BOB: full, ALICE: {"DEV": {}}})
    assert refused.value.errcode == "M_INVALID_PARAM"


def test_a_message_has_a_bounded_size() -> None:
    """In bytes of JSON."""
    largest = limits.TO_DEVICE_MESSAGE_BYTES
    assert len(encode_content(content_of(largest))) == largest
    with pytest.raises(MatrixError) as refused:
        encode_content(content_of(largest + 1))
    assert (refused.value.status, refused.value.errcode) == (413, "M_TOO_LARGE")


def test_a_content_that_cant_be_stored_is_refused() -> None:
    """Too deep, say: it can't be given to the device either."""
    value: Any = {}
    for _ in range(300):
        value = {"a": value}
    with pytest.raises(MatrixError) as refused:
        encode_content(value)
    assert refused.value.errcode == "M_BAD_JSON"


def test_a_device_gets_type_sender_and_content() -> None:
    """The content as it was."""
    built = json.loads(build_message(ALICE, "m.test", b'{"a":[1]}'))
    assert built == {"type": "m.test", "sender": ALICE, "content": {"a": [1]}}


def test_an_edu_has_each_message_under_user_and_device() -> None:
    """In one object."""
    messages = [message(b'{"n":1}'), message(b'{"n":2}', device="*"), message(b"{}", ALICE)]
    assert json.loads(build_edu(ALICE, "m.test", "id", messages)) == {
        "edu_type": "m.direct_to_device",
        "content": {
            "sender": ALICE,
            "type": "m.test",
            "message_id": "id",
            "messages": {BOB: {"DEV": {"n": 1}, "*": {"n": 2}}, ALICE: {"DEV": {}}},
        },
    }


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (0, []),
        (limits.TO_DEVICE_PER_EDU, [limits.TO_DEVICE_PER_EDU]),
        (limits.TO_DEVICE_PER_EDU + 1, [limits.TO_DEVICE_PER_EDU, 1]),
    ],
)
def test_an_edu_has_a_bounded_number_of_messages(count: int, sizes: list[int]) -> None:
    """All of them are in one of the parts, in order."""
    messages = [message(device=f"D{number}") for number in range(count)]
    parts = list(split_for_edus(messages))
    assert [len(part) for part in parts] == sizes
    assert [one for part in parts for one in part] == messages


def test_an_edu_has_a_bounded_size() -> None:
    """A message that is larger than that goes by itself."""
    half = b"x" * (limits.TO_DEVICE_EDU_BYTES // 2)
    over = b"x" * (limits.TO_DEVICE_EDU_BYTES + 1)
    contents = [half, half, b"x", over, b"x"]
    parts = list(split_for_edus([message(content) for content in contents]))
    assert [[len(one.content) for one in part] for part in parts] == [
        [len(half), len(half)],
        [1],
        [len(over)],
        [1],
    ]
