"""The policies that a new user has to accept.

Spec: client-server API, "Terms of service at registration".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from homeserver import limits
from homeserver.rules.identity.third_party_ids import is_opaque


class PolicyText(msgspec.Struct, frozen=True, kw_only=True):
    """A policy in one language: its name, and where it can be read."""

    language: str
    name: str
    url: str


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A document in one version."""

    id: str
    version: str
    texts: tuple[PolicyText, ...]


def terms_params(policies: Sequence[Policy]) -> dict[str, Any]:
    """Returns the parameters of the stage m.login.terms."""
    return {
        "policies": {
            policy.id: {
                "version": policy.version,
                **{text.language: {"name": text.name, "url": text.url} for text in policy.texts},
            }
            for policy in policies
        }
    }


def name_policies(policies: Sequence[Policy]) -> str:
    """Returns what the stage proves: the versions that were accepted, a line for each."""
    return "\n".join(f"{policy.id} {policy.version}" for policy in policies)


def named_policies(text: str) -> list[tuple[str, str]]:
    """Returns ID and version of each policy of `name_policies`."""
    pairs = [line.partition(" ") for line in text.splitlines()]
    return [(policy, version) for policy, _, version in pairs]


def policy_problems(policies: Sequence[Policy]) -> list[str]:
    """Returns what is wrong with the policies of a configuration, in sentences."""
    problems = []
    if len({policy.id for policy in policies}) < len(policies) or len(policies) > limits.POLICIES:
        problems.append(f"terms: each needs an id of its own, and {limits.POLICIES} are enough")
    for policy in policies:
        if not (is_opaque(policy.id) and is_opaque(policy.version) and policy.texts):
            problems.append(f"terms: {policy.id!r} needs an id and a version, and a text")
        if any(not text.url.startswith(("https://", "http://")) for text in policy.texts):
            problems.append(f"terms: each url of {policy.id!r} must begin with https:// or http://")
        if any(text.language == "version" for text in policy.texts):
            problems.append(f"terms: {policy.id!r} has a text in no language")
    return problems
