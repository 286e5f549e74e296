"""Canonical JSON (spec: appendices, "Canonical JSON"; room version 6, "Canonical JSON").

Rules:
1. `encode` and `decode` are strict: integers within +-(2^53-1), no floats, no NaN, no lone
   surrogates. They serve room versions 6 and later and all signed JSON of servers.
2. `encode_lenient` and `decode_lenient` serve room versions 1 to 5.
3. Depth is no reason to refuse: other servers accept deep events, so refusing them would split
   rooms. The fast libraries give up at 253 and some 1,000 levels; `deep_json` takes over there.
4. The last of duplicate keys wins, as in every parser in use. Signatures and hashes always cover
   our own encoding, so that two readers of it can't differ.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import canonicaljson
import msgspec
import orjson

from federation.events.bounded_json import deep_json
from federation.events.bounded_json.deep_json import NotCanonical
from federation.limits import INTEGER_MAX, QUOTED_CHARACTERS_MAX

__all__ = [
    "JsonObject",
    "JsonValue",
    "NotCanonical",
    "check",
    "decode",
    "decode_lenient",
    "encode",
    "encode_checked",
    "encode_lenient",
]

JsonValue: TypeAlias = Any
"""None, bool, int, str, list of JsonValue or JsonObject."""

JsonObject: TypeAlias = dict[str, Any]

_OPTIONS: Final = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)


def _refuse_float(text: str) -> float:
    raise NotCanonical(f"a float: {text[:QUOTED_CHARACTERS_MAX]}")


_STRICT: Final = msgspec.json.Decoder(float_hook=_refuse_float)
_LENIENT: Final = msgspec.json.Decoder()
_LEAVES: Final = frozenset({str, bool, type(None)})


def check(value: JsonValue) -> None:
    """Refuses what canonical JSON can't hold, keys and surrogates aside (`encode` sees to them).

    Raises NotCanonical. Any depth.
    """
    stack = [value]
    pop = stack.pop
    push = stack.append
    while stack:
        item = pop()
        kind = type(item)
        if kind is dict:
            for member in item.values():
                if type(member) not in _LEAVES:
                    push(member)
        elif kind is list or kind is tuple:
            for member in item:
                if type(member) not in _LEAVES:
                    push(member)
        elif kind is int:
            if not -INTEGER_MAX <= item <= INTEGER_MAX:
                raise NotCanonical("an integer beyond 2^53-1")
        elif not isinstance(item, str | bool | None):
            raise NotCanonical(f"{kind.__name__} is not canonical JSON")


def encode_checked(value: JsonValue) -> bytes:
    """Encodes what `check` has passed (or consists of strings only); raises NotCanonical."""
    try:
        # A copy of the exact size: the result of orjson keeps its buffer of some kilobytes.
        return bytes(memoryview(orjson.dumps(value, option=_OPTIONS)))
    except TypeError:
        # Too deep for orjson, or an invalid key or string: the slow path finds out which.
        return deep_json.encode(value)


def encode(value: JsonValue) -> bytes:
    """Returns the canonical JSON of `value`.

    Raises NotCanonical for floats, integers beyond 2^53-1, keys that aren't strings, lone
    surrogates and anything that isn't JSON. Any depth.
    """
    check(value)
    return encode_checked(value)


def encode_lenient(value: JsonValue) -> bytes:
    """Returns the encoding that room versions 1 to 5 sign and hash: floats and large integers as
    they are.

    Raises NotCanonical for NaN, infinities, lone surrogates and what isn't JSON.
    """
    try:
        return canonicaljson.encode_canonical_json(value)
    except RecursionError:
        return deep_json.encode(value)
    except (TypeError, ValueError) as error:
        raise NotCanonical(str(error)) from error


def decode(data: bytes) -> JsonValue:
    """Parses JSON strictly.

    Raises NotCanonical for malformed JSON, floats (`1.0` and `1e3` too), NaN and integers beyond
    2^53-1. `-0` reads as 0. Any depth.
    """
    try:
        value = _STRICT.decode(data)
        # The quickest way to find integers out of range; nothing else can fail here but depth.
        orjson.dumps(value, option=orjson.OPT_STRICT_INTEGER)
        return value
    except msgspec.MsgspecError as error:
        raise NotCanonical(f"malformed JSON: {error}") from error
    except (RecursionError, TypeError):
        value = deep_json.decode(data, allow_floats=False)
        check(value)
        return value
    except UnicodeDecodeError as error:
        raise NotCanonical("not UTF-8") from error


def decode_lenient(data: bytes) -> JsonValue:
    """Parses JSON with floats and integers of any size; raises NotCanonical when malformed."""
    try:
        return _LENIENT.decode(data)
    except msgspec.MsgspecError as error:
        raise NotCanonical(f"malformed JSON: {error}") from error
    except RecursionError:
        return deep_json.decode(data, allow_floats=True)
    except UnicodeDecodeError as error:
        raise NotCanonical("not UTF-8") from error
