"""Converts a table of TOML to a Struct, with errors that an operator can act on.

Rules:
1. Every unknown key and every wrong type is reported, each with its full name; nothing is ignored.
2. The error for an unknown key names the nearest known one. The error for a wrong type says in
   words which type is expected.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo

T = TypeVar("T", bound=msgspec.Struct)

_PREFIX = "FREEHOLD_"
_NOT_KEYS = ("FREEHOLD_CONFIG", "FREEHOLD_TEST_", "FREEHOLD_LAB_")
_EXPECTED = re.compile(r"Expected `([^`]*)`, got `([^`]*)`(?: - at `\$(.*)`)?")
_MISSING = re.compile(r"Object missing required field `([^`]*)`(?: - at `\$(.*)`)?")
_ENUM = re.compile(r"Invalid enum value (.*?)(?: - at `\$(.*)`)?$")
_WORDS = {
    "str": "a text in quotes",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}


def convert_table(table: Mapping[str, Any], shape: type[T]) -> tuple[T | None, list[str]]:
    """Returns the Struct, or None, and all problems. Every top-level key is checked by itself, so
    one wrong value doesn't hide the next."""
    known = _fields(shape)
    problems = _unknown_keys(table, shape, "")
    for name, value in table.items():
        if (field := known.get(name)) is not None:
            problems += _type_problems(value, field.type, name)
    problems += [
        f"{name} is missing"
        for name, field in known.items()
        if field.required and name not in table
    ]
    if problems:
        return None, problems
    return msgspec.convert(dict(table), shape), []


def override(table: dict[str, Any], shape: type[T], environment: Mapping[str, str]) -> list[str]:
    """Puts the environment's variables into a table. Returns the problems."""
    problems = []
    for variable, text in sorted(environment.items()):
        if variable.startswith(_PREFIX) and not variable.startswith(_NOT_KEYS):
            problems += _override_one(table, shape, variable, text)
    return problems


def _override_one(table: dict[str, Any], shape: type[T], variable: str, text: str) -> list[str]:
    parts = variable[len(_PREFIX) :].lower().split("__")
    current: type[msgspec.Struct] = shape
    for part in parts[:-1]:
        inner = _struct_of(_fields(current).get(part))
        if inner is None:
            return [f"{variable}: there is no table {part}{_nearest(part, current)}"]
        entry = table.setdefault(part, {})
        if not isinstance(entry, dict):
            return [f"{variable}: {part} isn't a table in the file"]
        table, current = entry, inner
    field = _fields(current).get(parts[-1])
    if field is None:
        return [f"{variable}: there is no key {parts[-1]}{_nearest(parts[-1], current)}"]
    if _is_text(field.type):
        table[parts[-1]] = text
        return []
    try:
        table[parts[-1]] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        return [f"{variable}: not a TOML value: {error}"]
    return []


def _unknown_keys(table: Mapping[str, Any], shape: type[msgspec.Struct], path: str) -> list[str]:
    known, problems = _fields(shape), []
    for name, value in table.items():
        full = f"{path}{name}"
        if name not in known:
            problems.append(f"{full}: there is no such key{_nearest(name, shape)}")
            continue
        inner = _struct_of(known[name])
        if inner is None:
            continue
        if isinstance(value, dict):
            problems += _unknown_keys(value, inner, f"{full}.")
        elif isinstance(value, list):
            for index, entry in enumerate(value):
                if isinstance(entry, dict):
                    problems += _unknown_keys(entry, inner, f"{full}[{index}].")
    return problems


def _type_problems(value: Any, kind: Any, name: str) -> list[str]:
    inner = _struct_in(kind)
    if inner is not None and isinstance(value, dict):
        found = []
        for key, field in _fields(inner).items():
            if key in value:
                found += _type_problems(value[key], field.type, f"{name}.{key}")
            elif field.required:
                found.append(f"{name}.{key} is missing")
        return found
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return [_in_words(str(error), name, value)]
    return []


def _in_words(message: str, name: str, value: Any) -> str:
    if match := _EXPECTED.match(message):
        words = [word for word in match[1].split(" | ") if word != "null"]
        expected = " or ".join(_WORDS.get(word, word) for word in words)
        return (
            f"{name}{match[3] or ''}: expected {expected}, found {_WORDS.get(match[2], match[2])}"
        )
    if match := _MISSING.match(message):
        return f"{name}{match[2] or ''}.{match[1]} is missing"
    if match := _ENUM.match(message):
        return f"{name}{match[2] or ''}: {match[1]} isn't one of its values"
    return f"{name}: {message} ({value!r})"


def _nearest(name: str, shape: type[msgspec.Struct]) -> str:
    names = list(_fields(shape))
    if close := difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5):
        return f'; did you mean "{close[0]}"?'
    return f"; there are {', '.join(names)}"


def _fields(shape: type[msgspec.Struct]) -> dict[str, FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(shape)}


def _struct_of(field: FieldInfo | None) -> type[msgspec.Struct] | None:
    """Returns the Struct of a table, or of the entries of a list of tables."""
    if field is None:
        return None
    if get_origin(field.type) is tuple:
        return _struct_in(get_args(field.type)[0])
    return _struct_in(field.type)


def _struct_in(kind: Any) -> type[msgspec.Struct] | None:
    return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


def _is_text(kind: Any) -> bool:
    return kind is str or get_origin(kind) is Literal
