"""Backed-up keys: what is accepted, and which of two is kept."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import MatrixError
from federation.limits import INTEGER_MAX
from homeserver import limits
from homeserver.rules.encryption.key_backup import (
    KeyQuality,
    key_json,
    parse_key,
    parse_room,
    parse_rooms,
    parse_settings,
    parse_version,
)

ALGORITHM = "m.megolm_backup.v1.curve25519-aes-sha2"
ROOM, SESSION = "!room:hs1", "c2Vzc2lvbg"
KEY: dict[str, Any] = {
    "first_message_index": 3,
    "forwarded_count": 1,
    "is_verified": True,
    "session_data": {"ephemeral": "a", "ciphertext": "b", "mac": "c"},
}


def padded(length: int) -> dict[str, str]:
    """Return an object whose JSON has that many bytes."""
    return {"x": "y" * (length - len(b'{"x":""}'))}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (KeyQuality(9, 9, True), KeyQuality(0, 0, False)),
        (KeyQuality(1, 9, True), KeyQuality(2, 0, True)),
        (KeyQuality(1, 9, False), KeyQuality(2, 0, False)),
        (KeyQuality(1, 1, True), KeyQuality(1, 2, True)),
    ],
)
def test_the_better_key_wins_in_either_order(better: KeyQuality, worse: KeyQuality) -> None:
    assert better.is_better_than(worse)
    assert not worse.is_better_than(better)


def test_an_equal_key_replaces_nothing() -> None:
    quality = KeyQuality(1, 1, True)
    assert not quality.is_better_than(quality)


QUALITIES = st.builds(KeyQuality, st.integers(0, 2), st.integers(0, 2), st.booleans())


@given(st.permutations(range(3)), st.lists(QUALITIES, min_size=3, max_size=3))
def test_the_kept_key_does_not_depend_on_the_order(order: list[int], keys: list[Any]) -> None:
    """Devices upload in any order; all orders end with the same quality."""

    def kept(arriving: list[KeyQuality]) -> KeyQuality:
        best = arriving[0]
        for one in arriving[1:]:
            best = one if one.is_better_than(best) else best
        return best

    assert kept(keys) == kept([keys[i] for i in order])


def test_a_key_is_given_back_as_it_came() -> None:
    key = parse_key(ROOM, SESSION, {**KEY, "another": "field"})
    assert orjson.loads(orjson.dumps(key_json(key))) == KEY


def test_rooms_and_sessions_are_unfolded() -> None:
    body = {"rooms": {ROOM: {"sessions": {"a": KEY, "b": KEY}}, "!other": {"sessions": {}}}}
    assert [(key.room_id, key.session_id) for key in parse_rooms(body)] == [
        (ROOM, "a"),
        (ROOM, "b"),
    ]


@pytest.mark.parametrize(
    ("change", "errcode"),
    [
        ({"first_message_index": -1}, "M_BAD_JSON"),
        ({"first_message_index": INTEGER_MAX + 1}, "M_BAD_JSON"),
        ({"first_message_index": True}, "M_BAD_JSON"),
        ({"first_message_index": 1.0}, "M_BAD_JSON"),
        ({"forwarded_count": None}, "M_BAD_JSON"),
        ({"forwarded_count": "1"}, "M_BAD_JSON"),
        ({"is_verified": 1}, "M_BAD_JSON"),
        ({"is_verified": "true"}, "M_BAD_JSON"),
        ({"session_data": "text"}, "M_BAD_JSON"),
        ({"session_data": []}, "M_BAD_JSON"),
        ({"session_data": padded(limits.KEY_BACKUP_SESSION_BYTES + 1)}, "M_TOO_LARGE"),
    ],
)
def test_a_field_of_another_shape_is_refused(change: dict[str, Any], errcode: str) -> None:
    with pytest.raises(MatrixError) as refused:
        parse_key(ROOM, SESSION, {**KEY, **change})
    assert refused.value.errcode == errcode


def test_the_bounds_themselves_are_accepted() -> None:
    data = padded(limits.KEY_BACKUP_SESSION_BYTES)
    bounds = {"first_message_index": INTEGER_MAX, "forwarded_count": 0, "session_data": data}
    key = parse_key(ROOM, SESSION, {**KEY, **bounds})
    assert (key.quality.first_message_index, key.quality.forwarded_count) == (INTEGER_MAX, 0)
    assert len(key.session_data) == limits.KEY_BACKUP_SESSION_BYTES


@pytest.mark.parametrize("name", sorted(KEY))
def test_each_field_is_required(name: str) -> None:
    body = {key: value for key, value in KEY.items() if key != name}
    with pytest.raises(MatrixError) as refused:
        parse_key(ROOM, SESSION, body)
    assert refused.value.errcode == "M_MISSING_PARAM"


@pytest.mark.parametrize(
    ("room_id", "session_id"),
    [
        ("room", SESSION),
        ("", SESSION),
        ("!" + "r" * limits.IDENTIFIER_BYTES, SESSION),
        ("!r\0", SESSION),
        (ROOM, ""),
        (ROOM, "s" * (limits.IDENTIFIER_BYTES + 1)),
        (ROOM, "\0"),
        (ROOM, "\ud800"),
    ],
)
def test_an_impossible_name_is_refused(room_id: str, session_id: str) -> None:
    with pytest.raises(MatrixError) as refused:
        parse_key(room_id, session_id, KEY)
    assert refused.value.errcode == "M_INVALID_PARAM"


@pytest.mark.parametrize("body", [{}, {"rooms": []}, {"rooms": {ROOM: []}}, {"rooms": {ROOM: {}}}])
def test_rooms_of_another_shape_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(MatrixError):
        list(parse_rooms(body))


@pytest.mark.parametrize("body", [{}, {"sessions": []}, {"sessions": {SESSION: "key"}}])
def test_a_room_of_another_shape_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(MatrixError):
        list(parse_room(ROOM, body))


def test_settings_have_bounds() -> None:
    data = padded(limits.KEY_BACKUP_AUTH_DATA_BYTES)
    settings = parse_settings({"algorithm": ALGORITHM, "auth_data": data})
    assert (settings.algorithm, orjson.loads(settings.auth_data)) == (ALGORITHM, data)
    data = padded(limits.KEY_BACKUP_AUTH_DATA_BYTES + 1)
    with pytest.raises(MatrixError) as refused:
        parse_settings({"algorithm": ALGORITHM, "auth_data": data})
    assert refused.value.status == 413


@pytest.mark.parametrize(
    "body",
    [
        {"algorithm": ALGORITHM},
        {"auth_data": {}},
        {"algorithm": 1, "auth_data": {}},
        {"algorithm": "", "auth_data": {}},
        {"algorithm": ["x"], "auth_data": {}},
        {"algorithm": "m.of_nobody", "auth_data": {}},
        {"algorithm": ALGORITHM, "auth_data": "text"},
    ],
)
def test_settings_of_another_shape_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(MatrixError) as refused:
        parse_settings(body)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("text", "version"),
    [
        *(
            ("1", 1),
            ("10", 10),
            ("9" * 18, 10**18 - 1),
            ("9" * 19, None),
            ("0", None),
            ("01", None),
        ),
        *((text, None) for text in ("", "-1", "1 ", "1\n", "٣")),
    ],
)
def test_versions(text: str, version: int | None) -> None:
    assert parse_version(text) == version
