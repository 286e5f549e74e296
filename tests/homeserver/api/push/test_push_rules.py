"""Endpoints of push rules, over the default rules."""

import pytest

from homeserver.api.push.push_rules import PushRulesApi
from homeserver.services.push.push_rules import PushRules
from tests.homeserver.api.handlers import Reply, serving

MASTER = "/pushrules/global/override/.m.rule.master"


async def get(path: str) -> Reply:
    """Makes one call."""
    async with serving(PushRulesApi(PushRules()).routes()) as caller:
        return await caller.call("GET", path)


async def test_all_rules_are_read() -> None:
    """With a slash at the end or without; the global ones are all that there are."""
    every = await get("/pushrules/")
    assert every.status == 200
    assert list(every.body) == ["global"]
    assert await get("/pushrules") == every
    of_global = every.body["global"]
    assert await get("/pushrules/global") == await get("/pushrules/global/") == (200, of_global)
    assert of_global["override"][0]["rule_id"] == ".m.rule.master"


async def test_one_rule_and_its_parts_are_read() -> None:
    """The rule that mutes all is off."""
    rule = await get(MASTER)
    assert rule.body["enabled"] is False
    assert await get(f"{MASTER}/enabled") == (200, {"enabled": False})
    assert await get(f"{MASTER}/actions") == (200, {"actions": rule.body["actions"]})


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        ("/pushrules/global/strange/.m.rule.master", (400, "M_INVALID_PARAM")),
        ("/pushrules/global/override/strange", (404, "M_NOT_FOUND")),
        ("/pushrules/global/override/strange/enabled", (404, "M_NOT_FOUND")),
        ("/pushrules/global/room/.m.rule.master/actions", (404, "M_NOT_FOUND")),
        ("/pushrules/device/override/.m.rule.master", (404, "M_UNRECOGNIZED")),
    ],
)
async def test_what_isnt_there_isnt_read(path: str, refusal: tuple[int, str]) -> None:
    """A kind, a rule, or a scope."""
    assert (await get(path)).refusal == refusal
