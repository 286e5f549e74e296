"""The table of room versions: what each brought, and that it is data."""

from __future__ import annotations

from dataclasses import fields

import pytest

from federation.events.room_versions import (
    ROOM_VERSIONS,
    SUPPORTED,
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
        "strict_canonical_json",
        "aliases_in_auth_rules",
        "notification_levels_guarded",
        "redaction_keeps_aliases",
    },
    "7": {"knock"},
    "8": {"restricted_joins", "redaction_keeps_allow"},
    "9": {"redaction_keeps_join_authorised"},
    "10": {"knock_restricted", "integer_power_levels"},
    "11": {
        "creator_in_content",
        "redacts_in_content",
        "redaction_keeps_legacy_fields",
        "redaction_keeps_create_content",
        "redaction_keeps_invite_level",
        "redaction_keeps_redacts",
        "redaction_keeps_signed_invite",
    },
    "12": {
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
    assert changed - {"name", "supported"} == CHANGES[name]


def test_what_is_supported_is_known() -> None:
    assert {"10", "11", "12"} <= set(SUPPORTED)
    assert all(SUPPORTED[name] is ROOM_VERSIONS[name] for name in SUPPORTED)


@pytest.mark.parametrize("name", ["", "13", "org.example.1", "x" * 5000])
def test_an_unknown_version_is_refused(name: str) -> None:
    with pytest.raises(UnknownRoomVersion) as caught:
        room_version(name)
    assert len(str(caught.value)) < 100
