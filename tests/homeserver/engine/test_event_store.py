"""States that federation checks events against: what the rules look up is loaded, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from federation.events.ids import UserId
from federation.events.room_versions import room_version
from federation.graph.auth.auth_failures import AuthRule
from federation.graph.auth.auth_rules import check_auth
from tests.federation.graph.large_room import ADMIN, LEVELS, LargeRoom
from tests.homeserver.engine.large_engine_room import large_world, with_parents

INVITED = UserId("@invited:b")


@pytest.mark.parametrize(
    ("signed", "rule", "is_loaded"),
    [
        ({"mxid": INVITED, "token": "t3"}, AuthRule.THIRD_PARTY_INVITE_UNSIGNED, True),
        ({"mxid": INVITED, "token": "other"}, AuthRule.THIRD_PARTY_INVITE_UNKNOWN, False),
        ({"mxid": INVITED, "token": 3}, AuthRule.THIRD_PARTY_INVITE_MALFORMED, False),
        ("signed", AuthRule.THIRD_PARTY_INVITE_WITHOUT_SIGNED, False),
    ],
)
async def test_a_third_party_invite_is_checked_against_the_one_that_it_names(
    signed: Any, rule: AuthRule, is_loaded: bool
) -> None:
    large = LargeRoom(room_version("12"), 3)
    made = [
        large.add("m.room.third_party_invite", f"t{number}", {}, cites=(LEVELS,))
        for number in range(5)
    ]
    large.settle()
    content = {"membership": "invite", "third_party_invite": {"signed": signed}}
    [invite] = large.beside(
        [lambda: large.add("m.room.member", INVITED, content, cites=(LEVELS,), sender=ADMIN)]
    )
    async with large_world(large) as world:
        head = (await world.room()).view.heads[0].event_id
        event = with_parents(invite, [head])
        state = await world.engine.events.state_before(event)
        assert state is not None
        failure = check_auth(event, state)
        assert failure is not None
        assert failure.rule is rule
        loaded = [one for one in made if world.engine.rooms.memory.known(one.event_id)]
        assert loaded == ([made[3]] if is_loaded else [])
