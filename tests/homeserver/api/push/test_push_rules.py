"""Endpoints of push rules, over a service that notes what it is asked."""

from typing import Any

import pytest

from federation.errors import MatrixError
from homeserver.api.push.push_rules import PushRulesApi
from tests.homeserver.api.handlers import ALICE, NotedService, Reply, serving

RULE = "/pushrules/global/content/r1"
ANSWERS: dict[str, Any] = {
    "ruleset": {"global": {"override": []}},
    "rule": {"rule_id": "r1", "enabled": False, "actions": ["notify"], "default": False},
}


async def call(service: NotedService, method: str, path: str, body: object = None) -> Reply:
    """Makes one call."""
    async with serving(PushRulesApi(service).routes()) as caller:  # type: ignore[arg-type]
        return await caller.call(method, path, body)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/pushrules/", ANSWERS["ruleset"]),
        ("/pushrules", ANSWERS["ruleset"]),
        ("/pushrules/global/", ANSWERS["ruleset"]["global"]),
        ("/pushrules/global", ANSWERS["ruleset"]["global"]),
        (RULE, ANSWERS["rule"]),
        (f"{RULE}/enabled", {"enabled": False}),
        (f"{RULE}/actions", {"actions": ["notify"]}),
    ],
)
async def test_rules_are_read(path: str, answer: Any) -> None:
    """All, one, or a part of one."""
    service = NotedService(**ANSWERS)
    assert await call(service, "GET", path) == (200, answer)
    assert service.only.arguments[0] == ALICE.user_id


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("PUT", RULE, "put"),
        ("DELETE", RULE, "delete"),
        ("PUT", f"{RULE}/enabled", "enable"),
        ("PUT", f"{RULE}/actions", "act"),
    ],
)
async def test_rules_are_changed(method: str, path: str, name: str) -> None:
    """The body goes to the service."""
    service = NotedService()
    body: dict[str, Any] = {"actions": []}
    assert await call(service, method, path, body) == (200, {})
    asked = service.only
    expected = (ALICE.user_id, "content", "r1", *([body] if method == "PUT" else []))
    assert (asked.name, asked.arguments) == (name, expected)


async def test_a_rule_is_put_beside_another() -> None:
    """The query names it."""
    service = NotedService()
    await call(service, "PUT", f"{RULE}?before=a&after=b%2Fc", {"actions": []})
    assert service.only.options == {"before": "a", "after": "b/c"}


async def test_refusals_are_passed_on() -> None:
    """As they are."""
    service = NotedService(rule=MatrixError(404, "M_NOT_FOUND", "no"))
    assert (await call(service, "GET", RULE)).refusal == (404, "M_NOT_FOUND")
    reply = await call(service, "GET", "/pushrules/device/override/r1")
    assert reply.refusal == (404, "M_UNRECOGNIZED")
