"""mautrix-telegram, unmodified, with a Telegram of the test's own: from the registration that it
writes to messages of both networks with all that belongs to them, encrypted rooms, and kill -9.

The tests share one server and one bridge, in one room; each looks at what it made itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
import trustme

from local_postgres import EmbeddedCluster
from tests.faults.servers import until
from tests.hostile.clients.running_server import SERVER, running
from tests.interop.appservices.bridges import (
    WAIT_S,
    BridgesUnavailable,
)
from tests.interop.appservices.person import Person
from tests.interop.appservices.telegram.bridge import (
    AVATAR,
    BOT,
    Bridge,
    Scene,
    ensure_mautrix_telegram,
    has_olm,
    log_in,
    png,
    telegram,
)
from tests.interop.nio_person import NioPerson

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]

ME, IAN, ZOE, GARDEN, CELLAR = 1001, 2002, 3003, 500, 501
IAN_HERE, ZOE_HERE = f"@telegram_{IAN}:{SERVER}", f"@telegram_{ZOE}:{SERVER}"
MEDIA = "/_matrix/client/v1/media/download/"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(
    postgres_cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Scene]:
    """The server, the bridge and the network; alice is logged in, and in the group."""
    try:
        ensure_mautrix_telegram()
    except BridgesUnavailable as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("bridge")
    bridge = Bridge(folder, SERVER, f"@alice:{SERVER}")
    bridge.prepare()
    database_url = await postgres_cluster.ensure_database("telegram")
    tables: dict[str, Any] = {
        "appservices": {"registrations": [str(one) for one in bridge.registrations]},
        "media": {"unauthenticated": True},  # without v1.11 in /versions, it uses the old paths
    }
    async with (
        telegram(folder, bridge.key, bridge.telegram_port) as network,
        running(database_url, trustme.CA(), **tables) as server,
    ):
        alice = Person(server, await server.register("alice"))
        await network.ask("say", chat=GARDEN, by=IAN, text="before")
        try:
            await bridge.start(server.url)
            found = await log_in(alice, bridge, network)
            found.group = await found.room_named("Garden")
            yield found
            assert await network.ask("unknown") == []
        finally:
            await bridge.kill()


async def heard(scene: Scene, by: int, text: str, **more: int) -> tuple[int, Any]:
    """Somebody says something on Telegram: the message's ID there, and its event here."""
    number = await scene.telegram.ask("say", chat=GARDEN, by=by, text=text, **more)
    return number, await scene.alice.until_said(scene.group, text)


async def told(scene: Scene, text: str) -> tuple[str, dict[str, Any]]:
    """Alice says something here: the event's ID, and what Telegram saw."""
    event_id = await scene.alice.say(scene.group, text)
    return event_id, await scene.telegram.until_seen("message", text=text)


def related(event: Any) -> Any:
    """What an event relates to."""
    return event["content"].get("m.relates_to", {})


async def test_people_have_names_and_pictures_and_the_past_its_time(scene: Scene) -> None:
    path = f"/rooms/{quote(scene.group)}/joined_members"
    for user_id in (IAN_HERE, ZOE_HERE):
        await scene.alice.until_joined(scene.group, user_id)
    members = (await scene.alice.ok("GET", path))["joined"]
    assert set(members) == {scene.alice.user.user_id, f"@{BOT}:{SERVER}", IAN_HERE, ZOE_HERE}
    assert members[IAN_HERE]["display_name"] == "Ian (Telegram)"
    assert members[ZOE_HERE]["display_name"] == "Zoé (Telegram)"
    picture = members[IAN_HERE]["avatar_url"].removeprefix("mxc://")
    assert await scene.alice.ok("GET", MEDIA + picture) == AVATAR
    before = await scene.alice.until_said(scene.group, "before")
    sent_ms = await scene.telegram.ask("sent_ms", message=1)
    assert (before["sender"], before["origin_server_ts"]) == (IAN_HERE, sent_ms)


async def test_messages_and_replies_go_both_ways(scene: Scene) -> None:
    number, event = await heard(scene, IAN, "How are the roses?")
    assert event["sender"] == IAN_HERE
    _, answer = await heard(scene, ZOE, "Red.", reply_to=number)
    assert answer["sender"] == ZOE_HERE
    assert related(answer) == {"m.in_reply_to": {"event_id": event["event_id"]}}
    reply = {"m.in_reply_to": {"event_id": event["event_id"]}}
    content = {"msgtype": "m.text", "body": "And white.", "m.relates_to": reply}
    await scene.alice.send(scene.group, "m.room.message", content)
    seen = await scene.telegram.until_seen("message", text="And white.")
    assert (seen["chat"], seen["reply_to"]) == (GARDEN, number)


async def test_edits_reactions_and_redactions_come_from_telegram(scene: Scene) -> None:
    alice, group = scene.alice, scene.group
    number, event = await heard(scene, IAN, "Tulpis")
    await scene.telegram.ask("rewrite", message=number, text="Tulips")
    edit = await alice.until_event(
        group, lambda one: related(one).get("rel_type") == "m.replace", "the edit"
    )
    assert related(edit)["event_id"] == event["event_id"]
    assert edit["content"]["m.new_content"]["body"] == "Tulips"
    await scene.telegram.ask("react", by=ZOE, message=number, emoji="❤")
    reaction = await alice.until_event(
        group, lambda one: one["type"] == "m.reaction" and one["sender"] == ZOE_HERE, "a reaction"
    )
    assert related(reaction)["event_id"] == event["event_id"]
    assert related(reaction)["key"].strip("\ufe0f") == "❤"
    await scene.telegram.ask("delete", message=number)
    redaction = await alice.until_event(
        group, lambda one: one["type"] == "m.room.redaction", "the redaction"
    )
    found = await alice.ok("GET", f"/rooms/{quote(group)}/event/{quote(event['event_id'])}")
    assert found["content"] == {}
    assert found["unsigned"]["redacted_because"]["event_id"] == redaction["event_id"]


async def test_edits_reactions_and_redactions_go_to_telegram(scene: Scene) -> None:
    alice, group, network = scene.alice, scene.group, scene.telegram
    event_id, seen = await told(scene, "Lilys")
    new = {"msgtype": "m.text", "body": "Lilies"}
    relation = {"rel_type": "m.replace", "event_id": event_id}
    edit = {"msgtype": "m.text", "body": "* Lilies", "m.new_content": new}
    await alice.send(group, "m.room.message", {**edit, "m.relates_to": relation})
    await network.until_seen("edit", id=seen["id"], text="Lilies")
    reaction = {"rel_type": "m.annotation", "event_id": event_id, "key": "👍"}
    reaction_id = await alice.send(group, "m.reaction", {"m.relates_to": reaction})
    await network.until_seen("reaction", id=seen["id"], emoji="👍")
    path = f"/rooms/{quote(group)}/redact/"
    await alice.ok("PUT", f"{path}{quote(reaction_id)}/back", {})
    await network.until_seen("reaction", id=seen["id"], emoji="")
    await alice.ok("PUT", f"{path}{quote(event_id)}/gone", {})
    await network.until_seen("deletion", ids=[seen["id"]])


async def test_typing_and_receipts_go_both_ways_and_presence_one(scene: Scene) -> None:
    alice, group, network = scene.alice, scene.group, scene.telegram
    await network.ask("type", by=ZOE)
    await alice.until_ephemeral(group, "m.typing", lambda told: ZOE_HERE in told["user_ids"])
    path = f"/rooms/{quote(group)}/typing/{quote(alice.user.user_id)}"
    await alice.ok("PUT", path, {"typing": True, "timeout": 30000})
    await network.until_seen("typing", chat=GARDEN, is_on=True)
    await alice.ok("PUT", f"/presence/{quote(alice.user.user_id)}/status", {"presence": "online"})
    await network.until_seen("online", is_on=True)
    number, event = await heard(scene, IAN, "Have you read this?")
    await alice.ok("POST", f"/rooms/{quote(group)}/receipt/m.read/{quote(event['event_id'])}", {})
    await network.until_seen("read", chat=GARDEN, upto=number)
    event_id, _ = await told(scene, "I have.")  # the bridge says when it was delivered
    await alice.until_ephemeral(group, "m.receipt", lambda told: _has_read(told, event_id, BOT))


def _has_read(content: Any, event_id: str, name: str) -> bool:
    return f"@{name}:{SERVER}" in content.get(event_id, {}).get("m.read", {})


async def test_pictures_go_both_ways(scene: Scene) -> None:
    alice, group = scene.alice, scene.group
    theirs, ours = png(12, 34), png(56, 78)
    picture = {"picture": theirs.hex(), "width": 12, "height": 34}
    await scene.telegram.ask("show", chat=GARDEN, by=IAN, **picture)
    event = await alice.until_event(
        group, lambda one: one["content"].get("msgtype") == "m.image", "the picture"
    )
    assert event["sender"] == IAN_HERE
    info = event["content"]["info"]
    assert (info["mimetype"], info["w"], info["h"]) == ("image/png", 12, 34)
    assert await alice.ok("GET", MEDIA + event["content"]["url"].removeprefix("mxc://")) == theirs
    uploaded = await alice.ok("POST", "/_matrix/media/v3/upload?filename=garden.png", ours)
    content = {"msgtype": "m.image", "body": "garden.png", "url": uploaded["content_uri"]}
    await alice.send(group, "m.room.message", {**content, "info": {"mimetype": "image/png"}})
    await scene.telegram.until_seen("message", picture=ours.hex())


async def test_what_alice_does_on_her_telephone_is_her_own(scene: Scene) -> None:
    """The bridge acts for her by another registration, whose namespace has everybody."""
    _, event = await heard(scene, ME, "from the telephone")
    assert event["sender"] == scene.alice.user.user_id
    await told(scene, "after it")
    texts = [one["text"] for one in await scene.telegram.seen("message")]
    assert "from the telephone" not in texts, "it isn't sent back"


async def test_a_private_chat(scene: Scene) -> None:
    """The room is made when somebody writes; the other one's new name and receipts are shown."""
    alice, network = scene.alice, scene.telegram
    await network.ask("say", chat=IAN, by=IAN, text="Psst!")
    found: list[str] = []

    async def is_joined() -> bool:
        rooms = (await alice.ok("GET", "/joined_rooms"))["joined_rooms"]
        for room_id in set(rooms) - {scene.group}:
            members = (await alice.ok("GET", f"/rooms/{quote(room_id)}/joined_members"))["joined"]
            if IAN_HERE in members:
                found.append(room_id)
        return bool(found)

    await until(is_joined, "the chat is there", within_s=WAIT_S)
    chat = found[-1]
    assert (await alice.until_said(chat, "Psst!"))["sender"] == IAN_HERE
    event_id = await alice.say(chat, "Yes?")
    seen = await network.until_seen("message", text="Yes?", chat=IAN)
    await network.ask("read", by=IAN, message=seen["id"])
    name = f"telegram_{IAN}"
    await alice.until_ephemeral(chat, "m.receipt", lambda told: _has_read(told, event_id, name))
    await network.ask("rename", by=IAN, name="Ivan")
    await alice.until_event(
        chat, lambda one: one["content"].get("displayname") == "Ivan (Telegram)", "the new name"
    )


async def test_a_killed_bridge_misses_nothing(scene: Scene) -> None:
    alice, network, bridge = scene.alice, scene.telegram, scene.bridge
    await told(scene, "see you")
    await bridge.kill()
    theirs = [f"theirs {number}" for number in range(5)]
    for text in theirs:
        await network.ask("say", chat=GARDEN, by=IAN, text=text)
    await bridge.start(alice.server.url)
    await alice.until_said(scene.group, theirs[-1])
    said = [one["content"].get("body", "") for one in await alice.events(scene.group)]
    assert [one for one in said if one.startswith("theirs ")] == theirs
    await bridge.kill()
    ours = [f"ours {number}" for number in range(5)]
    for text in ours:
        await alice.say(scene.group, text)
    await bridge.start(alice.server.url)
    for text in ours:
        await network.until_seen("message", text=text)
    seen = [one["text"] for one in await network.seen("message")]
    assert sorted(one for one in seen if one.startswith("ours ")) == ours  # it handles all at once


async def test_an_encrypted_room(scene: Scene, tmp_path: Path) -> None:
    """The bridge's own libolm, fed by transactions: it makes its device without a log-in (MSC4190),
    and is sent keys, device lists and counts (MSC2409, MSC3202)."""
    if not has_olm():
        pytest.skip("libolm has no wheel for this Python")
    await scene.telegram.ask("say", chat=CELLAR, by=ZOE, text="Is it dark here?")
    cellar = await scene.room_named("Cellar")
    alice = NioPerson(scene.alice.server.url, tmp_path)
    try:
        await alice.login(scene.alice.user.user_id, "secret")
        await alice.until_joined(cellar)
        path = f"/rooms/{quote(cellar)}/state/m.room.encryption/"
        await scene.alice.ok("PUT", path, {"algorithm": "m.megolm.v1.aes-sha2"})
        await alice.until(lambda: alice.client.rooms[cellar].encrypted)
        await alice.say(cellar, "for your eyes")
        await scene.telegram.until_seen("message", text="for your eyes", chat=CELLAR)
        await scene.telegram.ask("say", chat=CELLAR, by=ZOE, text="for yours")
        await alice.until_read(cellar, "for yours")
        assert alice.read(cellar)[-1] == (ZOE_HERE, "for yours", True)
    finally:
        await alice.close()
    for event in await scene.alice.events(cellar):
        assert event["content"].get("body") not in ("for your eyes", "for yours")
