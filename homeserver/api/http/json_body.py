"""Reads a client's JSON body, within limits.

Rules:
1. A body that isn't JSON is 400 M_NOT_JSON; JSON that isn't an object is 400 M_BAD_JSON.
2. Nesting deeper than `CLIENT_JSON_DEPTH` is 400 M_BAD_JSON, checked before parsing: values built
   from a body must be serialisable, and clients don't need more.
3. `check_canonical` enforces canonical JSON: no floats, no integers beyond 2^53 - 1.

Spec: client-server API, "API standards"; appendices, "Canonical JSON".
"""

from __future__ import annotations

from typing import Any

import orjson

from federation.events.bounded_json.nesting import TooDeep, check_nesting, has_more_containers
from federation.events.canonical_json import JsonObject
from homeserver import limits
from homeserver.errors import bad_json, not_json

_INTEGER_MAX = 2**53 - 1


def parse_object(body: bytes) -> JsonObject:
    """Returns the JSON object of a body; an empty body is 400 M_NOT_JSON."""
    try:
        check_nesting(body, limits.CLIENT_JSON_DEPTH)
    except TooDeep as error:
        raise bad_json("The JSON is nested too deeply") from error
    if has_more_containers(body, limits.CLIENT_JSON_CONTAINERS):
        raise bad_json("The JSON has too many arrays and objects")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise not_json("The body isn't JSON") from error
    if not isinstance(value, dict):
        raise bad_json("The body must be a JSON object")
    return value


def check_canonical(value: JsonObject) -> None:
    """Raises 400 M_BAD_JSON for a value that canonical JSON can't represent."""
    waiting: list[Any] = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, float):
            raise bad_json("Numbers must be integers between -(2^53)+1 and (2^53)-1")
        elif isinstance(item, int) and not -_INTEGER_MAX <= item <= _INTEGER_MAX:
            raise bad_json("Integers must be between -(2^53)+1 and (2^53)-1")
