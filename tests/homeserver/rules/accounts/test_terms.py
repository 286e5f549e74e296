"""Policies as clients are told of them, and as a stage proves them."""

from __future__ import annotations

from homeserver.rules.accounts.terms import (
    Policy,
    PolicyText,
    name_policies,
    named_policies,
    terms_params,
)

TEXT = PolicyText(language="en", name="Terms", url="https://x.org/terms")
POLICIES = (
    Policy(id="terms", version="1.2", texts=(TEXT,)),
    Policy(id="privacy", version="3", texts=(TEXT,)),
)


def test_clients_are_told_the_version_and_each_language() -> None:
    assert terms_params(POLICIES)["policies"]["terms"] == {
        "version": "1.2",
        "en": {"name": "Terms", "url": "https://x.org/terms"},
    }


def test_what_was_accepted_is_read_back() -> None:
    assert named_policies(name_policies(POLICIES)) == [("terms", "1.2"), ("privacy", "3")]
    assert named_policies(name_policies(())) == []
