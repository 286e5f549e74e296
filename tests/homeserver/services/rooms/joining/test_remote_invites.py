"""Invites by other servers: at which rate they are let in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from federation.errors import MatrixError
from federation.events.ids import RoomId, ServerName, UserId
from homeserver.rules.accounts.rate_limits import Limit, Rate
from homeserver.services.accounts.rate_limits import RateLimiter
from homeserver.services.rooms.joining.remote_invites import RemoteInvites
from tests.federation.transport.memory_ports import JumpingClock

ONE, TWO = ServerName("one.example"), ServerName("two.example")
ALICE, BOB = UserId("@alice:here.example"), UserId("@bob:here.example")
RATES = {Limit.REMOTE_INVITES: Rate(1, 3), Limit.REMOTE_INVITES_OF_USER: Rate(0.1, 2)}


class Gate(RemoteInvites):
    """Everybody has an account and room for invites."""

    def __init__(self, clock: JumpingClock) -> None:
        self.blocked: set[UserId] = set()
        super().__init__(
            cast(Any, None), cast(Any, self), cast(Any, self), RateLimiter(clock, RATES)
        )

    async def _check_account(self, invitee: UserId) -> None:
        """Everybody is a user."""

    async def provide(self, _user_id: UserId) -> None:
        """`People.provide`: no application service makes users."""

    async def check_invitable(self, user_id: UserId) -> None:
        """`People.check_invitable`."""
        if user_id in self.blocked:
            raise MatrixError(403, "M_INVITE_BLOCKED", "no")

    async def of(self, user_id: UserId) -> dict[RoomId, Any]:
        """Nobody is invited anywhere."""
        return {}

    async def outcome(self, origin: ServerName, invitee: UserId) -> str:
        """ "" or the error code."""
        try:
            await self.admit(origin, cast(Any, SimpleNamespace(room_id=RoomId("!r:x"))), invitee)
        except MatrixError as refused:
            return refused.errcode
        return ""


async def test_a_server_invites_one_user_and_all_users_at_a_bounded_rate() -> None:
    clock = JumpingClock()
    gate = Gate(clock)
    limited = "M_LIMIT_EXCEEDED"
    assert [await gate.outcome(ONE, ALICE) for _ in range(3)] == ["", "", limited]
    assert await gate.outcome(ONE, BOB) == limited, "three of one server at once"
    assert await gate.outcome(TWO, ALICE) == "", "another server has rates of its own"
    clock.jump(1.5)
    assert await gate.outcome(ONE, BOB) == ""
    clock.jump(10)
    assert [await gate.outcome(ONE, ALICE) for _ in range(2)] == ["", limited]


async def test_who_blocks_invites_costs_no_further_look() -> None:
    gate = Gate(JumpingClock())
    gate.blocked.add(ALICE)
    assert [await gate.outcome(ONE, ALICE) for _ in range(4)] == ["M_INVITE_BLOCKED"] * 3 + [
        "M_LIMIT_EXCEEDED"
    ]
