"""Contacts as they are published, and those that can't be."""

from __future__ import annotations

import pytest

from homeserver import limits
from homeserver.rules.admin.support import (
    SupportContact,
    SupportSettings,
    support_document,
    support_problems,
)

ADMIN = SupportContact(matrix_id="@a:hs1", email_address="a@hs1.example")


def test_only_what_is_given_is_published() -> None:
    assert support_document(SupportSettings()) == {}
    security = SupportContact(role="m.role.security", email_address="s@hs1.example")
    settings = SupportSettings(contacts=(ADMIN, security))
    assert support_problems(settings) == []
    assert support_document(settings) == {
        "contacts": [
            {
                "role": "m.role.admin",
                "matrix_id": "@a:hs1",
                "email_address": "a@hs1.example",
            },
            {"role": "m.role.security", "email_address": "s@hs1.example"},
        ]
    }


@pytest.mark.parametrize(
    "wrong",
    [
        SupportSettings(page="javascript:alert(1)"),
        SupportSettings(contacts=(SupportContact(),)),
        SupportSettings(contacts=(SupportContact(role="", matrix_id="@a:hs1"),)),
        SupportSettings(contacts=(SupportContact(matrix_id="a"),)),
        SupportSettings(contacts=(SupportContact(email_address="a b@hs1.example"),)),
        SupportSettings(contacts=(SupportContact(email_address=" a@hs1.example"),)),
        SupportSettings(contacts=(ADMIN,) * (limits.SUPPORT_CONTACTS + 1)),
    ],
)
def test_problems_are_named(wrong: SupportSettings) -> None:
    (problem,) = support_problems(wrong)
    assert problem.startswith("support.")


def test_as_many_as_may_be() -> None:
    contacts = (ADMIN,) * limits.SUPPORT_CONTACTS
    assert support_problems(SupportSettings(page="https://hs1.example", contacts=contacts)) == []
