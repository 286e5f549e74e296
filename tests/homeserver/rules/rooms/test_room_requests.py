"""What createRoom may ask for."""

from typing import Any

import pytest

from federation.errors import MatrixError
from federation.events.ids import ServerName, UserId
from federation.events.room_versions import ROOM_VERSIONS
from homeserver import limits
from homeserver.rules.rooms.room_requests import (
    RoomRequest,
    build_alias,
    choose_version,
    parse_invitees,
    parse_room_request,
    preset_of,
)

ALICE = UserId("@alice:here.example")


def refusal(body: dict[str, Any]) -> MatrixError:
    """The error that a body gets."""
    with pytest.raises(MatrixError) as caught:
        parse_room_request(body)
    return caught.value


def test_an_empty_body_asks_for_a_room_with_all_defaults() -> None:
    assert parse_room_request({}) == RoomRequest()


def test_nulls_count_as_not_given() -> None:
    body = dict.fromkeys(RoomRequest.__struct_fields__)
    assert parse_room_request(body) == RoomRequest()


def test_all_parameters_are_read() -> None:
    request = parse_room_request(
        {
            "visibility": "public",
            "room_alias_name": "pub",
            "name": "The Pub",
            "topic": "Beer",
            "invite": ["@bob:here.example"],
            "invite_3pid": [],
            "room_version": "11",
            "creation_content": {"m.federate": False},
            "initial_state": [{"type": "a.b", "content": {"x": 1}}],
            "preset": "trusted_private_chat",
            "is_direct": True,
            "power_level_content_override": {"invite": 7},
        }
    )
    assert request.invite == ("@bob:here.example",)
    assert request.initial_state is not None
    assert (request.initial_state[0].state_key, request.initial_state[0].content) == ("", {"x": 1})
    assert (request.preset, request.is_direct) == ("trusted_private_chat", True)
    assert request.power_level_content_override == {"invite": 7}


@pytest.mark.parametrize(
    "body",
    [
        {"visibility": "secret"},
        {"preset": "party"},
        {"name": 7},
        {"invite": "@bob:here.example"},
        {"invite": [7]},
        {"initial_state": [{"content": {}}]},
        {"initial_state": [{"type": "a.b"}]},
        {"initial_state": [{"type": "a.b", "content": []}]},
        {"creation_content": []},
        {"is_direct": "yes"},
        {"power_level_content_override": 100},
    ],
)
def test_a_parameter_of_the_wrong_type_is_bad_json(body: dict[str, Any]) -> None:
    error = refusal(body)
    assert (error.status, error.errcode) == (400, "M_BAD_JSON")


def test_invites_by_addresses_are_limited_in_number() -> None:
    one = {"id_server": "id.example", "id_access_token": "t", "medium": "email", "address": "a@b"}
    most = [one] * limits.CREATE_ROOM_ADDRESSES
    assert len(parse_room_request({"invite_3pid": most}).invite_3pid or ()) == len(most)
    assert refusal({"invite_3pid": [*most, one]}).errcode == "M_INVALID_PARAM"


def test_invites_are_limited_in_number() -> None:
    users = [f"@u{number}:here.example" for number in range(limits.CREATE_ROOM_INVITES + 1)]
    assert len(parse_room_request({"invite": users[:-1]}).invite or ()) == len(users) - 1
    assert refusal({"invite": users}).errcode == "M_INVALID_PARAM"


def test_visibility_stands_for_a_preset_unless_one_is_given() -> None:
    assert preset_of(RoomRequest()) == "private_chat"
    assert preset_of(RoomRequest(visibility="private")) == "private_chat"
    assert preset_of(RoomRequest(visibility="public")) == "public_chat"
    assert preset_of(RoomRequest(visibility="public", preset="private_chat")) == "private_chat"


def test_only_supported_versions_can_be_chosen() -> None:
    default = ROOM_VERSIONS["11"]
    assert choose_version(None, default) is default
    assert choose_version("12", default).name == "12"
    for name in ("0", "99", "", "org.example.mine"):
        with pytest.raises(MatrixError) as caught:
            choose_version(name, default)
        assert caught.value.errcode == "M_UNSUPPORTED_ROOM_VERSION"
        assert caught.value.status == 400


def test_invitees_are_taken_once_in_order_without_the_creator() -> None:
    wanted = ("@b:x.example", "@a:x.example", ALICE, "@b:x.example")
    assert parse_invitees(RoomRequest(invite=wanted), ALICE) == ("@b:x.example", "@a:x.example")


@pytest.mark.parametrize("text", ["bob", "@bob", "!room:x.example", "", "@bob:not a server"])
def test_what_is_no_user_id_can_not_be_invited(text: str) -> None:
    with pytest.raises(MatrixError) as caught:
        parse_invitees(RoomRequest(invite=(text,)), ALICE)
    assert caught.value.errcode == "M_INVALID_PARAM"


def test_an_alias_is_made_from_its_local_part() -> None:
    assert build_alias("café", ServerName("here.example")) == "#café:here.example"


@pytest.mark.parametrize("localpart", ["", "a b", "a:b", "tab\t", "nul\0", "x" * 255])
def test_an_alias_that_the_grammar_forbids_is_refused(localpart: str) -> None:
    with pytest.raises(MatrixError) as caught:
        build_alias(localpart, ServerName("here.example"))
    assert (caught.value.status, caught.value.errcode) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize("more", [0, 1])
def test_so_much_of_a_wrong_value_is_quoted(more: int) -> None:
    name = "v" * (limits.QUOTED_CHARACTERS + more)
    with pytest.raises(MatrixError) as refused:
        choose_version(name, ROOM_VERSIONS["11"])
    assert f"'{name[: limits.QUOTED_CHARACTERS]}'" in refused.value.error
    text = "u" * (limits.QUOTED_ID_CHARACTERS + more)
    with pytest.raises(MatrixError) as refused:
        parse_invitees(RoomRequest(invite=(text,)), ALICE)
    assert f"'{text[: limits.QUOTED_ID_CHARACTERS]}'" in refused.value.error
