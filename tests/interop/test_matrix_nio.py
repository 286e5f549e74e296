"""matrix-nio, a client by other people, on our servers: what it calls besides encryption."""

import asyncio
import secrets
import time
from pathlib import Path
from typing import Any

import aiohttp
import nio as sdk
import pytest
from nio import RoomPreset, RoomVisibility

from tests.interop.conftest import NioEntry, OurEntry
from tests.interop.nio_person import DEADLINE_S, PASSWORD, NioPerson, good

pytestmark = [pytest.mark.processes]


async def room_of(host: NioPerson, *guests: NioPerson, **options: Any) -> str:
    """A room that a host made and guests joined; all know of it."""
    invite = [guest.user_id for guest in guests]
    room_id = str(good(await host.client.room_create(invite=invite, **options)).room_id)
    for guest in guests:
        good(await guest.client.join(room_id))
    for person in (host, *guests):
        await person.until_joined(room_id)
    return room_id


def refused(response: Any) -> str:
    """The code of an error response."""
    assert isinstance(response, sdk.ErrorResponse), repr(response)
    return str(response.status_code)


async def login_token(person: NioPerson) -> str:
    """A token by which a further device of the person logs in; nio has no call for it."""
    url = f"{person.client.homeserver}/_matrix/client/v1/login/get_token"
    headers = {"Authorization": f"Bearer {person.client.access_token}"}
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": person.user_id},
        "password": PASSWORD,
    }
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json={"auth": auth}, headers=headers) as response,
    ):
        return str((await response.json())["login_token"])


async def test_a_further_device_logs_in_by_a_token_once(nio: NioEntry, tmp_path: Path) -> None:
    """What a device that is there asks for lets one other in."""
    nina = await nio("nina")
    again = NioPerson(nina.client.homeserver, tmp_path)
    token = await login_token(nina)
    assert "m.login.token" in good(await again.client.login_info()).flows
    made = good(await again.client.login(token=token, device_name="second"))
    assert (made.user_id, made.device_id == nina.client.device_id) == (nina.user_id, False)
    await again.sync()
    assert refused(await again.client.login(token=token)) == "M_FORBIDDEN"
    await again.close()


async def test_an_account_logs_in_and_its_devices_are_listed_named_and_removed(
    nio: NioEntry,
) -> None:
    """Log-in flows, whoami, devices, user-interactive auth by password, and log-out."""
    nina = await nio("nina")
    again = await nio("nina", again=nina)
    assert "m.login.password" in good(await nina.client.login_info()).flows
    who = good(await again.client.whoami())
    assert (who.user_id, who.device_id) == (nina.user_id, again.client.device_id)
    good(await nina.client.update_device(again.client.device_id, {"display_name": "phone"}))
    listed = {device.id: device for device in good(await nina.client.devices()).devices}
    assert set(listed) == {nina.client.device_id, again.client.device_id}
    assert listed[again.client.device_id].display_name == "phone"
    challenge = await nina.client.delete_devices([again.client.device_id])
    assert isinstance(challenge, sdk.DeleteDevicesAuthResponse)
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": nina.user_id},
        "password": PASSWORD,
        "session": challenge.session,
    }
    good(await nina.client.delete_devices([again.client.device_id], auth))
    assert refused(await again.client.whoami()) == "M_UNKNOWN_TOKEN"
    assert [device.id for device in good(await nina.client.devices()).devices] == [
        nina.client.device_id
    ]
    token = nina.client.access_token
    good(await nina.client.logout())
    nina.client.access_token = token
    assert refused(await nina.client.whoami()) == "M_UNKNOWN_TOKEN"


async def test_a_wrong_password_and_a_taken_name_are_refused(nio: NioEntry) -> None:
    """With the codes that clients tell people by."""
    nina = await nio("nina")
    name = nina.user_id.removeprefix("@").partition(":")[0]
    assert refused(await nina.client.register(name, PASSWORD)) == "M_USER_IN_USE"
    assert refused(await nina.client.login("not the password")) == "M_FORBIDDEN"


async def test_texts_pass_both_ways_in_an_unencrypted_room(nio: NioEntry, ours: OurEntry) -> None:
    """nio and our own client read each other's words."""
    nina, olga = await nio("nina"), await ours("olga")
    room_id = good(await nina.client.room_create(invite=[olga.user_id])).room_id
    await olga.join(room_id)
    await nina.until_joined(room_id)
    await nina.say(room_id, "from nio")
    await olga.send_text(room_id, "from us")
    await nina.until_read(room_id, "from us")
    assert nina.read(room_id) == [
        (nina.user_id, "from nio", False),
        (olga.user_id, "from us", False),
    ]
    await olga.until(lambda _: len(olga.timeline(room_id)) == 2, deadline_s=DEADLINE_S)
    messages = olga.timeline(room_id)
    assert [(one.sender, one.body) for one in messages] == [
        (nina.user_id, "from nio"),
        (olga.user_id, "from us"),
    ]
    assert not any(message.encrypted for message in messages)


async def test_a_sync_takes_filters_by_id_and_inline(nio: NioEntry) -> None:
    """Only events of the asked types come, by a stored filter and by one in the query."""
    nina = await nio("nina")
    room_id = await room_of(nina)
    good(await nina.client.update_room_topic(room_id, "fish"))
    await nina.say(room_id, "hello")
    only = {"timeline": {"types": ["m.room.message"]}, "state": {"types": ["m.room.create"]}}
    stored = good(await nina.client.upload_filter(room=only)).filter_id
    for asked in (stored, {"room": only}):
        nina.client.next_batch = ""
        found = (await nina.sync(sync_filter=asked)).rooms.join[room_id]
        assert [event.source["type"] for event in found.timeline.events] == ["m.room.message"]
        assert [event.source["type"] for event in found.state] == ["m.room.create"]
    few = {"room": {"timeline": {"limit": 1}}}
    nina.client.next_batch = ""
    found = (await nina.sync(sync_filter=few)).rooms.join[room_id]
    assert [event.source["type"] for event in found.timeline.events] == ["m.room.message"]
    assert found.timeline.limited
    assert found.timeline.prev_batch


async def test_full_state_comes_again_and_news_once(nio: NioEntry) -> None:
    """An incremental sync with nothing new is empty; with full_state it has the whole state."""
    nina = await nio("nina")
    room_id = await room_of(nina, topic="fish")
    await nina.say(room_id, "hello")
    await nina.until(lambda: nina.bodies(room_id) == ["hello"])
    assert room_id not in (await nina.sync()).rooms.join
    full = (await nina.sync(full_state=True)).rooms.join[room_id]
    kinds = {event.source["type"] for event in full.state}
    assert {"m.room.create", "m.room.member", "m.room.power_levels", "m.room.topic"} <= kinds
    assert full.timeline.events == []
    assert nina.bodies(room_id) == ["hello"]


async def test_a_long_poll_ends_with_news_or_with_time(nio: NioEntry) -> None:
    """It waits as long as asked, and is woken by a message at once."""
    nina, nils = await nio("nina"), await nio("nils")
    room_id = await room_of(nina, nils)
    await nina.sync()
    await nils.sync()
    await nina.sync()
    started = time.monotonic()
    assert (await nina.sync(300)).rooms.join == {}
    assert 0.25 < time.monotonic() - started < 5
    waiting = asyncio.ensure_future(nina.sync(20_000))
    started = time.monotonic()
    await nils.say(room_id, "wake up")
    news = await waiting
    assert time.monotonic() - started < 5
    assert [event.body for event in news.rooms.join[room_id].timeline.events] == ["wake up"]


async def test_history_pages_backwards_and_forwards_without_gap_or_double(nio: NioEntry) -> None:
    """From a sync's token to the room's beginning, in pages; and back again."""
    nina = await nio("nina")
    room_id = await room_of(nina)
    said = [f"message {number}" for number in range(25)]
    for body in said:
        await nina.say(room_id, body)
    token = (await nina.sync()).next_batch
    paged: list[Any] = []
    start: str | None = token
    while start:
        page = good(await nina.client.room_messages(room_id, start, limit=7))
        assert len(page.chunk) <= 7
        paged += page.chunk
        start, last = page.end, start
    texts = [event.body for event in paged if isinstance(event, sdk.RoomMessageText)]
    assert texts == said[::-1]
    assert isinstance(paged[-1], sdk.RoomCreateEvent)
    assert len({event.event_id for event in paged}) == len(paged)
    forwards = good(
        await nina.client.room_messages(
            room_id, last, direction=sdk.MessageDirection.front, limit=100
        )
    )
    seen = [event.body for event in forwards.chunk if isinstance(event, sdk.RoomMessageText)]
    assert seen
    assert seen == said[len(said) - len(seen) :]
    only = {"types": ["m.room.create"]}
    page = good(await nina.client.room_messages(room_id, token, limit=50, message_filter=only))
    assert [event.source["type"] for event in page.chunk] == ["m.room.create"]


async def test_a_send_that_is_repeated_makes_one_event(nio: NioEntry) -> None:
    """Under one transaction ID the server answers with the same event."""
    nina = await nio("nina")
    room_id = await room_of(nina)
    content = {"msgtype": "m.text", "body": "once"}
    ids = {
        good(await nina.client.room_send(room_id, "m.room.message", content, tx_id="t1")).event_id
        for _ in range(3)
    }
    assert len(ids) == 1
    await nina.until(lambda: nina.bodies(room_id))
    await nina.sync()
    assert nina.bodies(room_id) == ["once"]
    event = good(await nina.client.room_get_event(room_id, ids.pop())).event
    assert event.body == "once"
    assert event.transaction_id == "t1"


async def test_a_redaction_takes_the_words_away(nio: NioEntry) -> None:
    """The redaction comes by sync, names its target, and the event is empty from then on."""
    nina, nils = await nio("nina"), await nio("nils")
    room_id = await room_of(nina, nils)
    event_id = await nina.say(room_id, "slip of the tongue")
    await nils.until(lambda: nils.bodies(room_id))
    good(await nina.client.room_redact(room_id, event_id, reason="typo"))
    await nils.until(lambda: nils.of_kind(room_id, sdk.RedactionEvent))
    redaction = nils.of_kind(room_id, sdk.RedactionEvent)[0]
    assert (redaction.redacts, redaction.reason) == (event_id, "typo")
    event = good(await nils.client.room_get_event(room_id, event_id)).event
    assert isinstance(event, sdk.RedactedEvent)
    assert event.redacter == nina.user_id
    assert "slip" not in str(event.source)
    refusal = await nils.client.room_redact(room_id, redaction.event_id)
    assert refused(refusal) == "M_FORBIDDEN"


async def test_typing_and_receipts_are_seen_by_others(nio: NioEntry) -> None:
    """Typing starts and stops; a receipt names its event and reader; the marker stays private."""
    nina, nils = await nio("nina"), await nio("nils")
    room_id = await room_of(nina, nils)
    event_id = await nina.say(room_id, "read this")
    good(await nils.client.room_typing(room_id, True))
    await nina.until(lambda: nina.client.rooms[room_id].typing_users == [nils.user_id])
    good(await nils.client.room_typing(room_id, False))
    await nina.until(lambda: nina.client.rooms[room_id].typing_users == [])
    good(await nils.client.room_read_markers(room_id, event_id, read_event=event_id))
    await nina.until(lambda: nils.user_id in nina.client.rooms[room_id].read_receipts)
    receipt = nina.client.rooms[room_id].read_receipts[nils.user_id]
    assert (receipt.event_id, receipt.receipt_type) == (event_id, "m.read")
    await nils.until(lambda: nils.client.rooms[room_id].fully_read_marker == event_id)
    assert nina.client.rooms[room_id].fully_read_marker is None
    later = await nina.say(room_id, "and this")
    good(await nils.client.update_receipt_marker(room_id, later))
    room = nina.client.rooms[room_id]
    await nina.until(lambda: nils.user_id in room.threaded_read_receipts)
    assert room.threaded_read_receipts[nils.user_id]["main"].event_id == later


async def test_state_is_put_got_listed_and_refused_to_others(nio: NioEntry) -> None:
    """A state event by type and key; who lacks the power is told so; what isn't there is 404."""
    nina, nils = await nio("nina"), await nio("nils")
    room_id = await room_of(nina, nils)
    good(await nina.client.room_put_state(room_id, "org.example.fish", {"kind": "cod"}, "north"))
    got = good(await nils.client.room_get_state_event(room_id, "org.example.fish", "north"))
    assert got.content == {"kind": "cod"}
    listed = good(await nils.client.room_get_state(room_id)).events
    assert ("org.example.fish", "north") in {(one["type"], one["state_key"]) for one in listed}
    put = await nils.client.room_put_state(room_id, "m.room.name", {"name": "mine"})
    assert refused(put) == "M_FORBIDDEN"
    missing = await nils.client.room_get_state_event(room_id, "org.example.fish", "south")
    assert refused(missing) == "M_NOT_FOUND"
    good(await nina.client.room_put_state(room_id, "m.room.name", {"name": "the harbour"}))
    await nils.until(lambda: nils.client.rooms[room_id].name == "the harbour")


async def test_a_profile_is_set_and_reaches_the_rooms(nio: NioEntry) -> None:
    """Display name and avatar; others see the new name where both are members."""
    nina, nils = await nio("nina"), await nio("nils")
    room_id = await room_of(nina, nils)
    good(await nina.client.set_displayname("Nina of the Lake"))
    good(await nina.client.set_avatar("mxc://hs1/lake"))
    profile = good(await nils.client.get_profile(nina.user_id))
    assert (profile.displayname, profile.avatar_url) == ("Nina of the Lake", "mxc://hs1/lake")
    await nils.until(
        lambda: nils.client.rooms[room_id].users[nina.user_id].avatar_url == "mxc://hs1/lake"
    )
    assert nils.client.rooms[room_id].users[nina.user_id].display_name == "Nina of the Lake"
    assert refused(await nils.client.get_profile("@nobody:hs1")) == "M_NOT_FOUND"


async def test_aliases_lead_to_rooms_and_can_be_deleted(nio: NioEntry) -> None:
    """An alias is put, resolved, joined by, and deleted."""
    nina, nils = await nio("nina"), await nio("nils")
    room_id = await room_of(nina, preset=RoomPreset.public_chat)
    alias = f"#harbour-{secrets.token_hex(3)}:hs1"
    good(await nina.client.room_put_alias(alias, room_id))
    assert good(await nils.client.room_resolve_alias(alias)).room_id == room_id
    taken = await nils.client.room_put_alias(alias, room_id)  # nio takes any answer for a yes
    assert taken.transport_response.status in (403, 409)
    assert good(await nils.client.join(alias)).room_id == room_id
    foreign = await nils.client.room_delete_alias(alias)
    assert foreign.transport_response.status == 403
    good(await nina.client.room_delete_alias(alias))
    assert refused(await nils.client.room_resolve_alias(alias)) == "M_NOT_FOUND"


async def test_account_data_is_kept_and_synced_to_other_devices(nio: NioEntry) -> None:
    """Direct chats and tags, as a client keeps them; nobody else gets them."""
    nina, nils = await nio("nina"), await nio("nils")
    room_id = await room_of(nina, nils, is_direct=True)
    again = await nio("nina", again=nina)
    path = f"/_matrix/client/v3/user/{nina.user_id}"
    auth = {"Authorization": f"Bearer {nina.client.access_token}"}
    for where, body in (
        ("account_data/m.direct", f'{{"{nils.user_id}": ["{room_id}"]}}'),
        (f"rooms/{room_id}/account_data/m.tag", '{"tags": {"m.favourite": {"order": 0.5}}}'),
    ):
        answer = await nina.client.send("PUT", f"{path}/{where}", body, auth)
        assert answer.status == 200, await answer.text()
    direct = good(await again.client.list_direct_rooms())
    assert direct.rooms == {nils.user_id: [room_id]}
    await again.until(lambda: "m.favourite" in again.client.rooms[room_id].tags)
    await again.until(lambda: any(is_direct(event) for event in again.account_data))
    await nils.say(room_id, "anything for me?")
    await nils.until(lambda: nils.bodies(room_id))
    assert not any(is_direct(event) for event in nils.account_data)


def is_direct(event: Any) -> bool:
    """Whether an account data event says which rooms are direct chats."""
    return isinstance(event, sdk.UnknownAccountDataEvent) and event.type == "m.direct"


async def test_invites_are_seen_refused_and_accepted(nio: NioEntry) -> None:
    """An invite has the room's name; refused it goes; accepted it is a room."""
    nina, nils = await nio("nina"), await nio("nils")
    room_id = good(await nina.client.room_create(name="tea")).room_id
    for answer in ("leave", "join"):
        good(await nina.client.room_invite(room_id, nils.user_id))
        await nils.until_invited(room_id)
        invited = nils.client.invited_rooms[room_id]
        assert (invited.name, invited.inviter) == ("tea", nina.user_id)
        if answer == "leave":
            good(await nils.client.room_leave(room_id))
            await nils.until(lambda: room_id in nils.last_sync.rooms.leave)
            nils.client.invited_rooms.pop(room_id, None)
    good(await nils.client.join(room_id))
    await nils.until_joined(room_id)
    assert good(await nils.client.joined_rooms()).rooms == [room_id]
    members = good(await nils.client.joined_members(room_id)).members
    assert {member.user_id for member in members} == {nina.user_id, nils.user_id}


async def test_kicks_bans_and_leaving_end_the_reading(nio: NioEntry) -> None:
    """Out is out: no words from then on, no joining while banned, and forgetting after."""
    nina, nils = await nio("nina"), await nio("nils")
    room_id = await room_of(
        nina, nils, visibility=RoomVisibility.public, preset=RoomPreset.public_chat
    )
    good(await nina.client.room_kick(room_id, nils.user_id, "out"))
    await nils.until(lambda: room_id in nils.last_sync.rooms.leave)
    await nina.say(room_id, "without you")
    assert refused(await nils.client.room_send(room_id, "m.room.message", {})) == "M_FORBIDDEN"
    good(await nils.client.join(room_id))
    good(await nina.client.room_ban(room_id, nils.user_id, "and stay out"))
    assert refused(await nils.client.join(room_id)) == "M_FORBIDDEN"
    good(await nina.client.room_unban(room_id, nils.user_id))
    good(await nils.client.join(room_id))
    good(await nils.client.room_leave(room_id))
    await nils.until(lambda: room_id in nils.last_sync.rooms.leave)
    good(await nils.client.room_forget(room_id))
    assert good(await nils.client.joined_rooms()).rooms == []
    await nina.say(room_id, "after your leaving")
    await nina.until_read(room_id, "after your leaving")
    await nils.sync()
    assert "after your leaving" not in nils.bodies(room_id)
    assert refused(await nils.client.room_messages(room_id, "")) == "M_FORBIDDEN"


async def test_users_see_each_others_presence(nio: NioEntry) -> None:
    """Set, asked for, and in syncs, as nio reads it: it goes on saying so in its syncs."""
    nina, otto = await nio("nina"), await nio("otto")
    await room_of(nina, otto)
    seen: list[Any] = []
    otto.client.add_presence_callback(seen.append, sdk.PresenceEvent)
    good(await nina.client.set_presence("unavailable", "at lunch"))
    await nina.sync()
    await otto.until(lambda: any(one.status_msg == "at lunch" for one in seen))
    last = [one for one in seen if one.user_id == nina.user_id][-1]
    assert (last.presence, last.status_msg) == ("unavailable", "at lunch")
    asked = good(await otto.client.get_presence(nina.user_id))
    assert (asked.presence, asked.status_msg) == ("unavailable", "at lunch")
    good(await nina.client.set_presence("offline"))
    await nina.sync()
    await otto.until(lambda: seen[-1].presence == "offline")
