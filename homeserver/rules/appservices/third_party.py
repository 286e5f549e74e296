"""What application services say of third-party networks, as clients may be told.

Rules:
1. Answers are checked: what doesn't have the specification's shape is left out.
2. A protocol that several services provide has the instances of all of them; else the first one's
   answer counts.
3. An instance has an ID that is unique on this server: the service's and the network's. By it
   clients choose a network's directory of rooms.

Spec: application service API, "Third-party networks"; client-server API, "Third-party Networks".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson

from federation.events.canonical_json import JsonObject


class _FieldType(msgspec.Struct, frozen=True):
    regexp: str
    placeholder: str


class _Instance(msgspec.Struct, frozen=True):
    desc: str
    fields: dict[str, Any]
    network_id: str
    icon: str | None = None


class _Protocol(msgspec.Struct, frozen=True):
    user_fields: list[str]
    location_fields: list[str]
    icon: str
    field_types: dict[str, _FieldType]
    instances: list[Any]


class _User(msgspec.Struct, frozen=True):
    userid: str
    protocol: str
    fields: dict[str, Any]


class _Location(msgspec.Struct, frozen=True):
    alias: str
    protocol: str
    fields: dict[str, Any]


def parse_answer(body: bytes) -> object:
    """Returns the JSON of an answer; None for anything else."""
    try:
        found: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return found


def merge_protocols(answers: Sequence[tuple[str, object]]) -> JsonObject | None:
    """Returns what services, each given by its ID, say of one protocol; None if none of them says
    anything that can be used."""
    merged: JsonObject | None = None
    instances: list[JsonObject] = []
    for service_id, answer in answers:
        if not _fits(answer, _Protocol):
            continue
        assert isinstance(answer, dict), "only objects fit"
        merged = merged or dict(answer)
        instances += [
            {**_given(one), "instance_id": instance_id(service_id, one["network_id"])}
            for one in answer["instances"]
            if _fits(one, _Instance)
        ]
    if merged is not None:
        merged["instances"] = instances
    return merged


def _given(instance: JsonObject) -> JsonObject:
    """Returns an instance without what is null."""
    return {name: value for name, value in instance.items() if value is not None}


def instance_id(service_id: str, network_id: str) -> str:
    """Returns the ID of a network of a service."""
    return f"{service_id}|{network_id}"


def users_in(answer: object) -> list[Mapping[str, Any]]:
    """Returns the users of an answer."""
    return _fitting(answer, _User)


def locations_in(answer: object) -> list[Mapping[str, Any]]:
    """Returns the locations of an answer."""
    return _fitting(answer, _Location)


def _fitting(answer: object, shape: type[msgspec.Struct]) -> list[Mapping[str, Any]]:
    return [one for one in answer if _fits(one, shape)] if isinstance(answer, list) else []


def _fits(value: object, shape: type[msgspec.Struct]) -> bool:
    try:
        msgspec.convert(value, shape)
    except msgspec.ValidationError:
        return False
    return isinstance(value, dict)
