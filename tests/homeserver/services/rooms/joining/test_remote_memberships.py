"""Exchanges behind the rooms' services: what is asked, what is stored, how failures are told."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from federation.errors import MatrixError
from federation.events.event import Event
from federation.events.ids import EventId, RoomAlias, RoomId, ServerName, UserId
from federation.events.room_versions import ROOM_VERSIONS
from federation.events.signing import SigningKey
from federation.graph.admission import Accepted, SoftFailed
from federation.graph.auth.auth_rules import AuthFailure, AuthRule
from federation.graph.building import EventDraft
from federation.graph.policy_servers import PolicyServer
from federation.ports import Template
from federation.transport.joining.joining import Knocked, MembershipRequest
from federation.transport.requests.client import FailureKind, FederationError
from homeserver.clock import SystemClock
from homeserver.engine.local.writer import Signer
from homeserver.errors import forbidden
from homeserver.services.rooms.directory import Target
from homeserver.services.rooms.joining.remote_memberships import (
    RemoteMemberships,
    RoomWriters,
    alias_look_up,
)

HERE, THERE = ServerName("here.example"), ServerName("there.example")
ALICE, STRANGER = UserId("@alice:here.example"), UserId("@stranger:there.example")
ROOM = RoomId("!room:there.example")
VERSION = ROOM_VERSIONS["11"]


def event(event_type: str, event_id: str, raw: bytes = b"{}") -> Event:
    """An event of the room."""
    return Event(
        event_id=EventId(event_id),
        room_id=ROOM,
        type=event_type,
        sender=ALICE,
        state_key="",
        content={},
        prev_events=(),
        auth_events=(),
        depth=1,
        origin_server_ts=1,
        redacts=None,
        version=VERSION,
        raw=raw,
    )


class Fakes:
    """Stand-ins for the exchanges and the engine; they note what happens."""

    def __init__(self) -> None:
        self.notes: list[Any] = []
        self.failure: Exception | None = None
        self.refusal: MatrixError | None = None
        self.policy = PolicyServer(THERE, "key")
        self.not_recommended: MatrixError | None = None
        self.verdict: Accepted | SoftFailed = Accepted()
        self.version, self.depth = VERSION, 7
        self.state = {("m.room.create", ""): event("m.room.create", "$create", b'{"c":1}')}

    async def ask(self, wish: MembershipRequest, via: Sequence[ServerName]) -> Any:
        """An exchange of a user of ours."""
        self.notes.append((wish, tuple(via)))
        if self.failure is not None:
            raise self.failure
        knock = event("m.room.member", "$knock", b'{"k":1}')
        return Knocked(knock, VERSION, [{"type": "t"}], THERE)

    async def invite(self, invite: Event, stripped: Sequence[bytes]) -> Event:
        """An invite that the other server signs."""
        if self.failure is not None:
            raise self.failure
        self.notes.append((invite, list(stripped)))
        return invite

    async def template(self, draft: EventDraft, room_id: RoomId) -> Template:
        """What the engine makes of an invite's draft."""
        if self.refusal is not None:
            raise self.refusal
        pdu = {
            "type": draft.type,
            "room_id": room_id,
            "sender": draft.sender,
            "state_key": draft.state_key,
            "content": draft.content,
            "prev_events": ["$p"],
            "auth_events": ["$a"],
            "depth": self.depth,
            "origin_server_ts": draft.origin_server_ts,
        }
        return Template(self.version, pdu)

    async def recommended(self, invite: Event) -> tuple[Event, PolicyServer | None]:
        """The room's policy server signs an invite, or refuses."""
        if self.not_recommended is not None:
            raise self.not_recommended
        return invite, self.policy

    async def accept_own(
        self, signed: Event, *, asked: PolicyServer | None
    ) -> Accepted | SoftFailed:
        """The engine takes a signed invite in."""
        assert asked == self.policy
        self.notes.append(signed.event_id)
        return self.verdict

    async def get(self, room_id: RoomId) -> Any:
        """A room of the engine."""
        return SimpleNamespace(view=SimpleNamespace(state={}), version=self.version)

    async def events(self, event_ids: Any) -> dict[EventId, Any]:
        """None of them is stored."""
        return {}

    async def state_events(self, state: Any, keys: Any) -> Any:
        """Events of its state."""
        return self.state

    def service(self) -> RemoteMemberships:
        """The service over these."""
        joining = SimpleNamespace(join=self.ask, leave=self.ask, knock=self.ask, invite=self.invite)
        entrance = RoomWriters(cast(Any, self), cast(Any, self))
        signer = Signer(HERE, SigningKey.generate(bytes(32), "1"))
        return RemoteMemberships(
            cast(Any, joining),
            entrance,
            signer=signer,
            clock=SystemClock(),
            ask_for_guests=self.ask_for_guests,
        )

    async def ask_for_guests(self, server: ServerName, room_id: RoomId) -> bool:
        """One server is down, the others know one room that is open to guests."""
        if server == "down.example":
            raise FederationError(server, FailureKind.REFUSED, "no")
        return room_id == "!open:there.example"


async def test_joins_and_refusals_go_through_the_given_servers() -> None:
    fakes = Fakes()
    service = fakes.service()
    await service.join(ROOM, ALICE, [THERE], {"reason": "j"})
    await service.leave(ROOM, ALICE, [THERE], {"reason": "l"})
    assert fakes.notes == [
        (MembershipRequest(ROOM, ALICE, {"reason": "j"}), (THERE,)),
        (MembershipRequest(ROOM, ALICE, {"reason": "l"}), (THERE,)),
    ]


async def test_an_invite_is_signed_here_then_there_then_taken_in() -> None:
    fakes = Fakes()
    draft = EventDraft("m.room.member", ALICE, {"membership": "invite"}, state_key=STRANGER)
    event_id = await fakes.service().invite(ROOM, draft)
    (invite, stripped), accepted = fakes.notes
    assert event_id == invite.event_id == accepted
    assert (invite.sender, invite.state_key, invite.depth) == (ALICE, STRANGER, 7)
    assert invite.origin_server_ts > 0
    assert stripped == [b'{"c":1}']


@pytest.mark.parametrize("depth", [2**53, 2**63 - 1])
async def test_an_invite_goes_out_however_deep_an_old_room_is(depth: int) -> None:
    """In room versions 1 to 5 any server can raise the depth past what JSON of today allows."""
    fakes = Fakes()
    fakes.version, fakes.depth = ROOM_VERSIONS["5"], depth
    draft = EventDraft("m.room.member", ALICE, {"membership": "invite"}, state_key=STRANGER)
    await fakes.service().invite(ROOM, draft)
    assert fakes.notes[0][0].depth == depth


async def test_an_invite_that_the_room_refuses_by_then_is_forbidden() -> None:
    fakes = Fakes()
    fakes.verdict = SoftFailed(AuthFailure(next(iter(AuthRule)), "no"))
    draft = EventDraft("m.room.member", ALICE, {"membership": "invite"}, state_key=STRANGER)
    with pytest.raises(MatrixError) as caught:
        await fakes.service().invite(ROOM, draft)
    assert caught.value.errcode == "M_FORBIDDEN"


async def test_an_invite_that_is_not_recommended_reaches_nobody() -> None:
    fakes = Fakes()
    fakes.not_recommended = forbidden("spam")
    draft = EventDraft("m.room.member", ALICE, {"membership": "invite"}, state_key=STRANGER)
    with pytest.raises(MatrixError) as caught:
        await fakes.service().invite(ROOM, draft)
    assert caught.value is fakes.not_recommended
    assert fakes.notes == []
    with pytest.raises(MatrixError):  # before it is written down: nobody has it
        await fakes.service().draft_invite(ROOM, draft)


async def test_failures_are_told_with_their_code() -> None:
    fakes = Fakes()
    fakes.failure = MatrixError(403, "M_FORBIDDEN", "banned", extra={"room_version": "11"})
    draft = EventDraft("m.room.member", ALICE, {"membership": "invite"}, state_key=STRANGER)
    with pytest.raises(MatrixError) as caught:
        await fakes.service().join(ROOM, ALICE, [THERE], {})
    assert caught.value.body() == {
        "errcode": "M_FORBIDDEN",
        "error": "banned",
        "room_version": "11",
    }
    fakes.refusal = MatrixError(404, "M_NOT_FOUND", "unknown")
    with pytest.raises(MatrixError) as caught:
        await fakes.service().invite(ROOM, draft)
    assert caught.value.status == 404
    assert fakes.notes == [(MembershipRequest(ROOM, ALICE, {}), (THERE,))]


async def test_content_that_can_not_be_an_event_is_refused() -> None:
    fakes = Fakes()
    for content, status in (({"f": 1.5}, 400), ({"x": "x" * 70_000}, 413)):
        draft = EventDraft("m.room.member", ALICE, content, state_key=STRANGER)
        with pytest.raises(MatrixError) as caught:
            await fakes.service().invite(ROOM, draft)
        assert caught.value.status == status
    assert fakes.notes == []


@pytest.mark.parametrize(
    ("kind", "status", "told"),
    [
        (FailureKind.STATUS, 404, (404, "M_NOT_FOUND")),
        (FailureKind.STATUS, 500, (502, "M_UNKNOWN")),
        (FailureKind.TIMEOUT, None, (502, "M_UNKNOWN")),
    ],
)
async def test_an_alias_that_can_not_be_looked_up_is_told(
    kind: FailureKind, status: int | None, told: tuple[int, str]
) -> None:
    async def directory(alias: RoomAlias) -> Any:
        raise FederationError(THERE, kind, "no", status=status)

    look_up = alias_look_up(cast(Any, SimpleNamespace(directory=directory)))
    with pytest.raises(MatrixError) as caught:
        await look_up(RoomAlias("#x:there.example"))
    assert (caught.value.status, caught.value.errcode) == told


async def test_an_alias_is_looked_up_at_its_server() -> None:
    async def directory(alias: RoomAlias) -> Any:
        return ROOM, (THERE,)

    look_up = alias_look_up(cast(Any, SimpleNamespace(directory=directory)))
    assert await look_up(RoomAlias("#x:there.example")) == Target(ROOM, (THERE,))


async def test_the_first_server_that_answers_says_whether_guests_may_join() -> None:
    service = Fakes().service()
    down, there = ServerName("down.example"), ServerName("there.example")
    for room_id, servers, expected in (
        ("!open:there.example", [down, there], True),
        ("!closed:there.example", [down, there], False),
        ("!open:there.example", [down], False),
    ):
        assert await service.guests_may_join(RoomId(room_id), servers) is expected
