"""How people come into rooms that a Synapse and a Freehold share, and how they leave them: each
step in both directions, in several versions."""

from __future__ import annotations

from typing import Any

import pytest

from federation.events.room_versions import room_version
from tests.interop.synapse.conftest import Couple, Enter
from tests.interop.synapse.person import JsonObject, Person, RoomView, quote, room_path

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),  # the first of them may have to install Synapse
]

DIRECT: dict[str, Any] = {"preset": "private_chat", "is_direct": True, "name": "two of us"}


def stripped(view: RoomView, event_type: str, state_key: str = "") -> JsonObject:
    """Return a piece of an invite's or knock's stripped state, which has to be there."""
    found = [
        event
        for event in view.stripped
        if (event["type"], event["state_key"]) == (event_type, state_key)
    ]
    assert len(found) == 1, (event_type, view.stripped)
    return found[0]


async def have_the_same_state(one: Person, two: Person, room_id: str) -> None:
    """Check that each type and key is the same event on both servers."""
    assert await one.state_ids(room_id) == await two.state_ids(room_id)


async def cant_join(person: Person, room_id: str, via: str) -> None:
    """Check that a join is refused as forbidden; Synapse has more than one error code for that."""
    path = f"/join/{quote(room_id)}"
    answer = await person.call("POST", path, {}, server_name=via, via=via)
    assert answer.status == 403, answer


async def test_an_invite_shows_what_it_is_and_is_accepted(couple: Couple) -> None:
    """A direct chat: the guest sees that it is one, who invites, and the room's name; the host the
    guest's name. (Synapse puts none into invites of other servers' users.)"""
    host, guest = couple.host, couple.guest
    path = f"/profile/{quote(guest.user_id)}/displayname"
    await guest.must("PUT", path, {"displayname": "the guest"})
    room_id = await host.create_room(couple.version, invite=[guest.user_id], **DIRECT)
    view = await guest.until_in(room_id, "invite")
    own = stripped(view, "m.room.member", guest.user_id)
    assert own["sender"] == host.user_id
    assert own["content"]["membership"] == "invite"
    assert own["content"]["is_direct"] is True
    if couple.host_side == "freehold":
        assert own["content"]["displayname"] == "the guest"
        path = f"{room_path(room_id)}/state/m.room.member/{quote(guest.user_id)}"
        assert (await host.must("GET", path))["displayname"] == "the guest"
    assert stripped(view, "m.room.name")["content"] == {"name": "two of us"}
    assert stripped(view, "m.room.join_rules")["content"]["join_rule"] == "invite"
    await guest.join(room_id, host.server)
    await guest.until_in(room_id, "join")
    await host.until_member(room_id, guest.user_id, "join")
    await have_the_same_state(host, guest, room_id)
    await host.until_has(room_id, await guest.say(room_id, "here I am"))


async def test_an_invite_is_rejected(couple: Couple) -> None:
    """The inviter learns of it; the guest's invite is gone, and the room stays closed."""
    host, guest = couple.host, couple.guest
    room_id = await host.create_room(couple.version, invite=[guest.user_id], **DIRECT)
    await guest.until_in(room_id, "invite")
    await guest.leave(room_id)
    await host.until_member(room_id, guest.user_id, "leave")
    await guest.until_in(room_id, "leave")
    await cant_join(guest, room_id, host.server)


async def test_an_invite_is_withdrawn(couple: Couple) -> None:
    """By a kick before it was accepted; the guest learns of it and can't join any more. A second
    invite, with a reason, counts again."""
    host, guest = couple.host, couple.guest
    room_id = await host.create_room(couple.version, invite=[guest.user_id], **DIRECT)
    await guest.until_in(room_id, "invite")
    await host.act(room_id, "kick", guest.user_id, reason="a mistake")
    await guest.until_in(room_id, "leave")
    await cant_join(guest, room_id, host.server)
    await host.act(room_id, "invite", guest.user_id, reason="no mistake")
    view = await guest.until_in(room_id, "invite")
    own = stripped(view, "m.room.member", guest.user_id)
    assert own["content"].get("reason") == "no mistake"
    await guest.join(room_id, host.server)
    await host.until_member(room_id, guest.user_id, "join")


async def test_a_user_is_invited_whose_server_is_in_the_room_already(
    couple: Couple, enter: Enter
) -> None:
    """The guest's server signs the invite, and gets it once more as an event of the room. (Synapse
    doesn't always show that one to those in the room.)"""
    host, guest = couple.host, couple.guest
    room_id = await host.create_room(couple.version, invite=[guest.user_id], preset="private_chat")
    await guest.until_in(room_id, "invite")
    await guest.join(room_id, host.server)
    friend = await enter("friend", couple.guest_side)
    await host.act(room_id, "invite", friend.user_id, reason="the more the merrier")
    view = await friend.until_in(room_id, "invite")
    assert stripped(view, "m.room.member", friend.user_id)["sender"] == host.user_id
    await friend.join(room_id, host.server)
    await host.until_member(room_id, friend.user_id, "join")
    await have_the_same_state(host, guest, room_id)


async def test_a_kicked_user_learns_why_and_may_come_back(couple: Couple) -> None:
    """The room is public."""
    host, guest = couple.host, couple.guest
    room_id = (await couple.meet()).room_id
    await host.act(room_id, "kick", guest.user_id, reason="cool down")
    view = await guest.until_in(room_id, "leave")
    assert view.content("m.room.member", guest.user_id).get("reason") == "cool down"
    await guest.join(room_id, host.server)
    await guest.until_in(room_id, "join")
    await host.until_member(room_id, guest.user_id, "join")
    await have_the_same_state(host, guest, room_id)


async def test_a_banned_user_stays_out_until_the_ban_is_lifted(couple: Couple) -> None:
    """The ban is told to the guest, refuses the next join, and ends."""
    host, guest = couple.host, couple.guest
    room_id = (await couple.meet()).room_id
    await host.act(room_id, "ban", guest.user_id, reason="enough")
    view = await guest.until_in(room_id, "leave")
    own = view.content("m.room.member", guest.user_id)
    assert (own["membership"], own.get("reason")) == ("ban", "enough")
    await cant_join(guest, room_id, host.server)
    await host.act(room_id, "unban", guest.user_id)
    await guest.join(room_id, host.server)
    await guest.until_in(room_id, "join")
    await host.until_member(room_id, guest.user_id, "join")
    await have_the_same_state(host, guest, room_id)


async def test_a_moderator_of_the_other_server_kicks_and_bans(
    couple: Couple, third: Person
) -> None:
    """The guest moderates: a user of the host's server has to go, for a while and for good."""
    host, guest = couple.host, couple.guest
    room_id = (await couple.meet()).room_id
    await third.join(room_id, host.server)
    await guest.until_member(room_id, third.user_id, "join")
    await guest.act(room_id, "kick", third.user_id, reason="by the guest")
    view = await third.until_in(room_id, "leave")
    assert view.content("m.room.member", third.user_id).get("reason") == "by the guest"
    await third.join(room_id, host.server)
    await guest.until_member(room_id, third.user_id, "join")
    await guest.act(room_id, "ban", third.user_id)
    await third.until_member(room_id, third.user_id, "ban")
    await host.until_member(room_id, third.user_id, "ban")
    await cant_join(third, room_id, host.server)
    await have_the_same_state(host, guest, room_id)


async def knocked(couple: Couple) -> str:
    """Return a room that the guest knocks at; the host sees it."""
    host, guest = couple.host, couple.guest
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room_id = await host.create_room(couple.version, initial_state=[rules], name="behind a door")
    query = {"server_name": host.server, "via": host.server}
    said = await guest.must("POST", f"/knock/{quote(room_id)}", {"reason": "please"}, **query)
    assert said["room_id"] == room_id
    content = await host.until_member(room_id, guest.user_id, "knock")
    assert content.get("reason") == "please"
    view = await guest.until_in(room_id, "knock")
    assert stripped(view, "m.room.name")["content"] == {"name": "behind a door"}
    return room_id


async def test_a_knock_is_answered_with_an_invite(couple: Couple) -> None:
    """Before it, the guest can't join."""
    if not room_version(couple.version).knock:
        pytest.skip("room versions have knocks from 7 on")
    host, guest = couple.host, couple.guest
    room_id = await knocked(couple)
    await cant_join(guest, room_id, host.server)
    await host.act(room_id, "invite", guest.user_id)
    await guest.until_in(room_id, "invite")
    await guest.join(room_id, host.server)
    await guest.until_in(room_id, "join")
    await host.until_member(room_id, guest.user_id, "join")
    await have_the_same_state(host, guest, room_id)


async def test_a_knock_is_taken_back(couple: Couple) -> None:
    """The host's server is told, unless the guest's is Synapse, which keeps it to itself."""
    if not room_version(couple.version).knock:
        pytest.skip("room versions have knocks from 7 on")
    host, guest = couple.host, couple.guest
    room_id = await knocked(couple)
    await guest.leave(room_id)
    await guest.until_in(room_id, "leave")
    if couple.guest_side == "freehold":
        await host.until_member(room_id, guest.user_id, "leave")


async def test_who_was_refused_may_knock_again(couple: Couple) -> None:
    """The guest's server need not have learned of the refusal: nothing obliges a server to tell one
    that isn't in the room, and Synapse doesn't."""
    if not room_version(couple.version).knock:
        pytest.skip("room versions have knocks from 7 on")
    host, guest = couple.host, couple.guest
    room_id = await knocked(couple)
    await host.act(room_id, "kick", guest.user_id, reason="not today")
    await host.until_member(room_id, guest.user_id, "leave")
    path, via = f"/knock/{quote(room_id)}", host.server
    await guest.must("POST", path, {"reason": "tomorrow?"}, server_name=via, via=via)
    content = await host.until_member(room_id, guest.user_id, "knock")
    assert content["reason"] == "tomorrow?"


async def test_members_of_one_room_may_join_another(couple: Couple) -> None:
    """A restricted room: the host's server vouches for the guest, once it is in the first room."""
    if not room_version(couple.version).restricted_joins:
        pytest.skip("room versions have restricted joins from 8 on")
    host, guest = couple.host, couple.guest
    lobby = await host.create_room(couple.version)
    allow = [{"type": "m.room_membership", "room_id": lobby}]
    content = {"join_rule": "restricted", "allow": allow}
    rules = {"type": "m.room.join_rules", "state_key": "", "content": content}
    room_id = await host.create_room(couple.version, initial_state=[rules])
    await cant_join(guest, room_id, host.server)
    await guest.join(lobby, host.server)
    await host.until_member(lobby, guest.user_id, "join")
    await guest.join(room_id, host.server)
    content = await host.until_member(room_id, guest.user_id, "join")
    assert content["join_authorised_via_users_server"] == host.user_id
    await guest.until_in(room_id, "join")
    await have_the_same_state(host, guest, room_id)
    await host.until_has(room_id, await guest.say(room_id, "through the lobby"))


async def test_a_member_that_copies_its_own_membership_isnt_muted(couple: Couple) -> None:
    """Clients do so to change a name in one room; the member came by a restricted join."""
    if not room_version(couple.version).restricted_joins:
        pytest.skip("room versions have restricted joins from 8 on")
    host, guest = couple.host, couple.guest
    lobby = (await couple.meet()).room_id
    allow = [{"type": "m.room_membership", "room_id": lobby}]
    content = {"join_rule": "restricted", "allow": allow}
    rules = {"type": "m.room.join_rules", "state_key": "", "content": content}
    room_id = await host.create_room(couple.version, initial_state=[rules])
    await guest.join(room_id, host.server)
    await guest.until_in(room_id, "join")
    path = f"{room_path(room_id)}/state/m.room.member/{quote(guest.user_id)}"
    own = await guest.must("GET", path)
    await guest.must("PUT", path, {**own, "displayname": "only here"})
    await host.until_has(room_id, await guest.say(room_id, "still heard"))
    content = await host.until_member(room_id, guest.user_id, "join")
    assert content["displayname"] == "only here"
    await have_the_same_state(host, guest, room_id)
