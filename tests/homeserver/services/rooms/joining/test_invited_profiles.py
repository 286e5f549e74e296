"""Names and pictures in invites of other servers' users."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import UserId
from federation.graph.building import EventDraft
from homeserver import limits
from homeserver.services.rooms.joining.invited_profiles import InvitedProfiles, sound_profile
from tests.homeserver.peer import PETER
from tests.homeserver.room_world import ALICE, STRANGER
from tests.homeserver.sync_world import SyncWorld, sync_world

PROFILE = {"displayname": "Stranger", "avatar_url": "mxc://there.example/s"}


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    """Yield a world with another server in it."""
    async with sync_world(postgres_url) as world:
        yield world


def invites(syncs: SyncWorld) -> list[JsonObject]:
    """The contents of the invites that other servers were asked to sign."""
    return [asked[-1] for asked in syncs.world.remote.asked if asked[0] == "invite"]


async def invite(syncs: SyncWorld, user: UserId, room_id: str, by: UserId = ALICE) -> JsonObject:
    """Invites a user; the content of the invite."""
    reply = await syncs.world.in_room(by, "POST", room_id, "invite", {"user_id": user})
    assert reply.status == 200, reply
    return invites(syncs)[-1]


async def test_what_the_users_server_says_is_in_an_invite(syncs: SyncWorld) -> None:
    syncs.world.remote.profiles[STRANGER] = {**PROFILE, "m.tz": "Europe/Paris"}
    room_id = await syncs.world.room(invite=[STRANGER, PETER], is_direct=True)
    expected: JsonObject = {"membership": "invite", "is_direct": True}
    assert sorted(invites(syncs), key=len) == [expected, {**PROFILE, **expected}]
    assert await invite(syncs, STRANGER, room_id) == {**PROFILE, "membership": "invite"}


async def test_the_name_in_a_shared_room_is_for_that_room_alone(syncs: SyncWorld) -> None:
    """Though the inviter sees it: the invite is read by the members of another room."""
    shared = await syncs.world.room(preset="public_chat")
    content = {"membership": "join", "displayname": "Agent P"}
    event = await syncs.peer.build(shared, EventDraft("m.room.member", PETER, content, PETER))
    await syncs.peer.remote_event_writer.accept_membership(event)
    room_id = await syncs.world.room()
    assert await invite(syncs, PETER, room_id) == {"membership": "invite"}
    syncs.world.remote.profiles[PETER] = {"displayname": "Peter"}
    other = await syncs.world.room()
    assert await invite(syncs, PETER, other) == {"membership": "invite", "displayname": "Peter"}


async def test_a_server_that_refuses_or_is_silent_delays_no_invite_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silent = asyncio.Event()
    asked: list[UserId] = []

    async def never(user_id: UserId, _key: str | None) -> JsonObject:
        asked.append(user_id)
        await silent.wait()
        return PROFILE

    async def refuses(user_id: UserId, _key: str | None) -> JsonObject:
        raise MatrixError(502, "M_UNKNOWN", "it could not be asked")

    assert await InvitedProfiles(refuses).of(STRANGER) == {}
    monkeypatch.setattr(limits, "INVITED_PROFILE_S", 0.01)
    assert await InvitedProfiles(never).of(STRANGER) == {}
    monkeypatch.setattr(limits, "INVITED_PROFILE_S", 600.0)
    waiting = asyncio.ensure_future(InvitedProfiles(never).of(STRANGER))
    while len(asked) < 2:
        await asyncio.sleep(0)
    silent.set()
    assert await waiting == PROFILE


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (PROFILE, PROFILE),
        ({"displayname": None, "avatar_url": 5}, {}),
        ({"displayname": "", "avatar_url": "https://there.example/s.png"}, {}),
        ({"displayname": "a\0b", "avatar_url": "mxc://a/\0"}, {}),
        ({"displayname": "x" * limits.DISPLAYNAME_CHARACTERS}, "same"),
        ({"displayname": "x" * (limits.DISPLAYNAME_CHARACTERS + 1)}, {}),
        ({"avatar_url": "mxc://" + "x" * limits.AVATAR_URL_CHARACTERS}, {}),
        ({"membership": "join", "reason": "r"}, {}),
    ],
)
def test_only_names_and_pictures_are_kept(said: dict[str, Any], kept: object) -> None:
    assert sound_profile(said) == (said if kept == "same" else kept)
