"""What application services say of networks, as clients may be told."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.rules.appservices.third_party import (
    locations_in,
    merge_protocols,
    parse_answer,
    users_in,
)


def protocol(**more: Any) -> dict[str, Any]:
    return {
        "user_fields": ["nick"],
        "location_fields": ["channel"],
        "icon": "mxc://a/b",
        "field_types": {"nick": {"regexp": ".+", "placeholder": "n"}},
        "instances": [{"desc": "Net", "fields": {"network": "n"}, "network_id": "net"}],
        **more,
    }


def test_instances_of_several_services_come_together() -> None:
    merged = merge_protocols([("a", protocol()), ("b", protocol(icon="mxc://c/d")), ("c", None)])
    assert merged is not None
    assert merged["icon"] == "mxc://a/b"
    assert [one["instance_id"] for one in merged["instances"]] == ["a|net", "b|net"]


@pytest.mark.parametrize("instance", [None, {}, {"desc": "x", "fields": {}, "network_id": 7}])
def test_instances_of_another_shape_are_left_out(instance: object) -> None:
    merged = merge_protocols([("a", protocol(instances=[instance]))])
    assert merged is not None
    assert merged["instances"] == []


def test_null_counts_as_not_given() -> None:
    instance: dict[str, Any] = {"desc": "x", "fields": {}, "network_id": "n", "icon": None}
    merged = merge_protocols([("a", protocol(instances=[instance]))])
    assert merged is not None
    [found] = merged["instances"]
    assert found == {"desc": "x", "fields": {}, "network_id": "n", "instance_id": "a|n"}


@pytest.mark.parametrize("answer", [None, [], {}, protocol(icon=7), protocol(field_types={"a": 1})])
def test_a_protocol_of_another_shape_is_none(answer: object) -> None:
    assert merge_protocols([("a", answer)]) is None


def test_users_and_locations() -> None:
    user = {"userid": "@a:hs1", "protocol": "irc", "fields": {}}
    location = {"alias": "#a:hs1", "protocol": "irc", "fields": {"x": 1}}
    assert users_in([user, location, 7]) == [user]
    assert locations_in([user, location, {**location, "fields": []}]) == [location]
    assert users_in({}) == locations_in(None) == []


def test_an_answer_that_is_not_json() -> None:
    assert parse_answer(b"[1]") == [1]
    assert parse_answer(b"<html>") is None
