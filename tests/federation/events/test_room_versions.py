"""The table of room versions: what each brought, and that it is data."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

from federation.events.room_versions import (
    ROOM_VERSIONS,
    SUPPORTED,
    RoomVersion,
    UnknownRoomVersion,
    room_version,
)

# What each version changed of the one before it, from the specification's change lists.
CHANGES = {
    "2": {"state_resolution"},
    "3": {"event_id_format", "redactions_in_auth_rules"},
    "4": {"event_id_format"},
    "5": {"enforce_key_validity"},
    "6": {
        "rule_numbering",
        "strict_canonical_json",
        "aliases_in_auth_rules",
        "notification_levels_guarded",
        "redaction_keeps_aliases",
    },
    "7": {"rule_numbering", "knock"},
    "8": {"rule_numbering", "restricted_joins", "redaction_keeps_allow"},
    "9": {"redaction_keeps_join_authorised"},
    "10": {"rule_numbering", "knock_restricted", "integer_power_levels"},
    "11": {
        "creator_in_content",
        "field_sizes_in_bytes",
        "redacts_in_content",
        "redaction_keeps_legacy_fields",
        "redaction_keeps_create_content",
        "redaction_keeps_invite_level",
        "redaction_keeps_redacts",
        "redaction_keeps_signed_invite",
    },
    "12": {
        "rule_numbering",
        "state_resolution",
        "room_id_is_create_hash",
        "create_in_auth_events",
        "creators_are_privileged",
        "additional_creators",
    },
}


def test_all_twelve_versions_are_known() -> None:
    assert list(ROOM_VERSIONS) == [str(number) for number in range(1, 13)]
    assert all(row.stable and row.name == name for name, row in ROOM_VERSIONS.items())


@pytest.mark.parametrize("name", CHANGES)
def test_a_version_changes_what_its_page_says_and_nothing_else(name: str) -> None:
    before, after = room_version(str(int(name) - 1)), room_version(name)
    changed = {
        field.name
        for field in fields(after)
        if getattr(before, field.name) != getattr(after, field.name)
    }
    assert changed - {"name"} == CHANGES[name]


def test_every_known_version_is_supported() -> None:
    assert SUPPORTED == ROOM_VERSIONS


def test_every_flag_cites_a_version_and_a_section() -> None:
    tree = ast.parse(inspect.getsource(RoomVersion)).body[0]
    assert isinstance(tree, ast.ClassDef)
    cited = {}
    for flag, text in pairwise(tree.body):
        if isinstance(flag, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(flag.target, ast.Name)
            cited[flag.target.id] = ast.literal_eval(text.value)
    flags = {field.name for field in fields(RoomVersion)} - {"name", "stable"}
    assert cited.keys() == flags
    assert all(re.search(r"v\d+.*\"[A-Z]|page whose", text, re.S) for text in cited.values())


HERE = Path(__file__).parents[3]
SOURCES = [
    path
    for package in ("federation", "homeserver", "lab", "e2ee")
    for path in sorted((HERE / package).rglob("*.py"))
    if path.name != "room_versions.py"
]


def compared_names(source: str) -> list[str]:
    """Returns the comparisons of a module that look at a version's name: with an order, or with a
    name written out."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare):
            continue
        text = ast.unparse(node)
        operands = [node.left, *node.comparators]
        several = [one.elts for one in operands if isinstance(one, ast.Tuple | ast.List | ast.Set)]
        operands += [one for elements in several for one in elements]
        constants = [one.value for one in operands if isinstance(one, ast.Constant)]
        ordered = any(isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for op in node.ops)
        if re.search(r"room_version|version\.name", text) and (
            ordered or any(value in ROOM_VERSIONS for value in constants)
        ):
            found.append(text)
    return found


def test_algorithms_ask_flags_and_never_compare_versions() -> None:
    assert {path: found for path in SOURCES if (found := compared_names(path.read_text()))} == {}
    for wrong in ("int(version.name) >= 8", "room_version in ('1', '2')", "version.name == '12'"):
        assert compared_names(f"if {wrong}:\n    pass") == [wrong]


@pytest.mark.parametrize("name", ["", "13", "org.example.1", "x" * 5000])
def test_an_unknown_version_is_refused(name: str) -> None:
    with pytest.raises(UnknownRoomVersion) as caught:
        room_version(name)
    assert len(str(caught.value)) < 100
