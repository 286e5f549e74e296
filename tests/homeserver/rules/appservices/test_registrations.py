"""Registrations of application services: what they say, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest

from federation.events.ids import RoomAlias, ServerName, UserId
from homeserver import limits
from homeserver.rules.appservices.registrations import (
    AppService,
    AppServices,
    find_repeats,
    parse_registration,
)

SERVER = ServerName("hs1")


def registration(**more: Any) -> dict[str, Any]:
    """A whole registration, as the specification's example."""
    return {
        "id": "irc",
        "url": "http://127.0.0.1:1234/",
        "as_token": "as-secret",
        "hs_token": "hs-secret",
        "sender_localpart": "_irc_bot",
        "namespaces": {
            "users": [{"exclusive": True, "regex": "@_irc_.*"}],
            "aliases": [{"exclusive": False, "regex": "#_irc_.*"}],
            "rooms": [{"exclusive": False, "regex": "!watched"}],
        },
        **more,
    }


def parsed(**more: Any) -> AppService:
    service, problems = parse_registration(registration(**more), "irc.yaml", SERVER)
    assert problems == []
    assert service is not None
    return service


def problems_of(data: Any) -> list[str]:
    service, problems = parse_registration(data, "irc.yaml", SERVER)
    assert service is None
    return problems


def test_a_whole_registration() -> None:
    service = parsed(protocols=["irc"], rate_limited=False, receive_ephemeral=True)
    assert (service.service_id, service.url) == ("irc", "http://127.0.0.1:1234")
    assert (service.as_token, service.hs_token) == ("as-secret", "hs-secret")
    assert service.sender == "@_irc_bot:hs1"
    assert service.protocols == ("irc",)
    assert (service.is_limited, service.wants_ephemeral) == (False, True)
    assert not service.wants_encryption
    assert "secret" not in repr(service)


def test_whom_it_owns() -> None:
    service = parsed()
    own = [UserId("@_irc_a:hs1"), service.sender]
    assert all(service.owns_user(one) and service.owns_user_alone(one) for one in own)
    for other in ("@_irc_a:hs2", "@alice:hs1"):  # users of other servers are nobody's
        assert not service.owns_user(UserId(other))
        assert not service.owns_user_alone(UserId(other))
    assert service.aliases.has("#_irc_a:hs1")
    assert not service.aliases.has_alone("#_irc_a:hs1")
    assert service.rooms.has("!watched:hs2")
    assert not service.rooms.has("!other:hs2")


def test_the_sender_is_owned_outside_of_all_namespaces() -> None:
    service = parsed(namespaces={})
    assert service.owns_user_alone(service.sender)
    assert not service.owns_user(UserId("@_irc_a:hs1"))


def test_limits_never_apply_to_the_sender() -> None:
    service = parsed()
    assert service.is_limited_as(UserId("@_irc_a:hs1"))
    assert not service.is_limited_as(service.sender)
    assert not parsed(rate_limited=False).is_limited_as(UserId("@_irc_a:hs1"))


@pytest.mark.parametrize(
    "name", ["receive_ephemeral", "push_ephemeral", "de.sorunome.msc2409.push_ephemeral"]
)
def test_the_names_under_which_ephemeral_data_is_asked_for(name: str) -> None:
    assert parsed(**{name: True}).wants_ephemeral


def test_what_encryption_needs_has_its_name() -> None:
    assert parsed(**{"org.matrix.msc3202": True}).wants_encryption


@pytest.mark.parametrize("url", [None, ""])
def test_nothing_is_sent_without_a_url(url: object) -> None:
    assert parsed(url=url).url is None


def test_a_sender_may_have_capitals() -> None:
    """As the registrations that mautrix's bridges write."""
    name = "ZgWzNq3-_V0kfy1fFFHbAbRKWbzM0Ccnp9aDnQ6oxeEWJIVRr4PqCjEx7zIhx9eA"
    assert parsed(sender_localpart=name).sender == f"@{name}:hs1"


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"id": None}, "id is missing"),
        ({"id": 7}, "id must be a text"),
        ({"id": ""}, "id must have between 1 and 255 bytes"),
        ({"url": "ftp://x"}, "url must be null, or begin with http:// or https://"),
        ({"url": "http://"}, "url must be null"),
        ({"url": "http://x:99999"}, "url must be null"),
        ({"url": 7}, "url must be null"),
        ({"as_token": None}, "as_token is missing"),
        ({"hs_token": "a\r\nHost: b"}, "hs_token may have only visible ASCII characters"),
        ({"hs_token": "é"}, "hs_token may have only visible ASCII characters"),
        ({"sender_localpart": "a:b"}, "sender_localpart may have only visible ASCII"),
        ({"sender_localpart": "a b"}, "sender_localpart may have only visible ASCII"),
        ({"sender_localpart": "bör"}, "sender_localpart may have only visible ASCII"),
        ({"sender_localpart": "b" * 255}, "sender_localpart isn't a user's name"),
        ({"rate_limited": "no"}, "rate_limited must be true or false"),
        ({"protocols": "irc"}, "protocols must be a list of texts"),
        ({"protocols": [1]}, "protocols must be a list of texts"),
        ({"namespaces": None}, "namespaces is missing"),
        ({"namespaces": []}, "namespaces must have users, aliases and rooms"),
        ({"namespaces": {"users": {}}}, "namespaces.users must be a list"),
        ({"namespaces": {"users": ["x"]}}, "namespaces.users[0] must have regex and exclusive"),
        (
            {"namespaces": {"rooms": [{"exclusive": True}]}},
            "namespaces.rooms[0].regex must be a text",
        ),
        (
            {"namespaces": {"aliases": [{"regex": "#a"}]}},
            "namespaces.aliases[0].exclusive must be true or false",
        ),
        (
            {"namespaces": {"users": [{"regex": "(a", "exclusive": True}]}},
            "namespaces.users[0].regex has a group without its end",
        ),
    ],
)
def test_a_problem_names_the_file_and_the_field(more: dict[str, Any], problem: str) -> None:
    [found] = problems_of(registration(**more))
    assert found.startswith(f"irc.yaml: {problem}")
    assert "secret" not in found


def test_all_problems_are_reported_together() -> None:
    assert len(problems_of({})) == 6
    assert problems_of([]) == ["irc.yaml: the file isn't a YAML mapping of fields to values"]


def test_the_number_of_namespaces_is_bounded() -> None:
    entry = {"exclusive": False, "regex": "@a"}
    parsed(namespaces={"users": [entry] * limits.NAMESPACES})
    [problem] = problems_of(registration(namespaces={"users": [entry] * (limits.NAMESPACES + 1)}))
    assert problem == f"irc.yaml: namespaces.users has more than {limits.NAMESPACES} entries"


def test_results_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeserver.limits.PATTERN_RESULTS", 2)
    users = parsed().users
    for _ in range(2):
        assert [users.has(f"@_irc_{name}:hs1") for name in "abc"] == [True] * 3
    assert len(users._results) == 2


def test_ids_and_tokens_are_unique() -> None:
    files = [("a.yaml", parsed()), ("b.yaml", parsed(id="other")), ("c.yaml", parsed(as_token="x"))]
    assert find_repeats(files) == [
        "b.yaml: as_token is also in a.yaml",
        'c.yaml: id "irc" is also in a.yaml',
    ]


def test_services_are_found_by_what_they_own() -> None:
    irc = parsed(protocols=["irc"])
    slack = parsed(
        id="slack",
        as_token="slack-secret",
        sender_localpart="slack",
        namespaces={"aliases": [{"exclusive": True, "regex": "#slack"}]},
    )
    services = AppServices([irc, slack])
    assert list(services) == [irc, slack]
    assert services.of_token("slack-secret") is slack
    assert services.of_token("\udce9") is None
    assert (services.of_id("irc"), services.of_id("x")) == (irc, None)
    mine, theirs = UserId("@_irc_a:hs1"), RoomAlias("#slack_a:hs1")
    assert services.is_user_taken(mine, None)
    assert services.is_user_taken(mine, slack)
    assert not services.is_user_taken(mine, irc)
    assert services.is_alias_taken(theirs, irc)
    assert not services.is_alias_taken(theirs, slack)
    assert not services.is_alias_taken(RoomAlias("#_irc_a:hs1"), None)  # not exclusive
    assert list(services.for_user(mine)) == [irc]
    assert list(services.for_alias(theirs)) == [slack]
    assert list(services.for_protocol("irc")) == list(services.for_protocol(None)) == [irc]
    assert list(services.for_protocol("xmpp")) == []
