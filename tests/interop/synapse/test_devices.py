"""Devices and their keys between Synapse and Freehold: announced, asked for, claimed, messaged and
gone again, in both directions; and encrypted words between our client and matrix-nio."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
import pytest_asyncio

from e2ee.client import Client
from lab.certificates import client_context
from tests.interop.nio_person import NioPerson, good
from tests.interop.synapse.conftest import Couple, Enter, other
from tests.interop.synapse.person import DEADLINE_S, PASSWORD, JsonObject, Person
from tests.interop.synapse.published_keys import (
    CrossSigningKeys,
    DeviceKeys,
    until_answered,
    until_devices,
)
from tests.interop.synapse.servers import SIDES, Pair, Side
from tests.interop.test_matrix_nio_encryption import bodies, nio_members

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),  # the first of them may have to install Synapse
]

ENCRYPTION = {
    "type": "m.room.encryption",
    "state_key": "",
    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
}
Speakers = tuple[Person, Person]


@pytest_asyncio.fixture(loop_scope="module", params=SIDES, ids=lambda side: f"from {side}")
async def speakers(request: pytest.FixtureRequest, enter: Enter) -> Speakers:
    """Return a user who publishes things and one of the other server who learns of them. They share
    an encrypted room that the first one made."""
    side: Side = request.param
    couple = Couple("12", side, await enter("speaker", side), await enter("listener", other(side)))
    await couple.meet(initial_state=[ENCRYPTION])
    return couple.host, couple.guest


async def until_changed(listener: Person, user_id: str) -> None:
    """Sync until a user's device list has changed, once more."""
    await listener.until(lambda: user_id in listener.changed, f"the devices of {user_id}")
    listener.changed.clear()


async def test_devices_are_announced_and_asked_for(speakers: Speakers) -> None:
    """The first device, a second one, and the second one's end."""
    speaker, listener = speakers
    first = DeviceKeys(speaker)
    await first.publish()
    await until_changed(listener, speaker.user_id)
    await until_devices(listener, speaker.user_id, {speaker.device_id: first.document})

    again = Person(speaker.session, speaker.url)
    await again.log_in(speaker.user_id)
    second = DeviceKeys(again)
    await second.publish()
    both = {speaker.device_id: first.document, again.device_id: second.document}
    await until_changed(listener, speaker.user_id)
    await until_devices(listener, speaker.user_id, both)

    await again.must("POST", "/logout", {})
    await until_changed(listener, speaker.user_id)
    await until_devices(listener, speaker.user_id, {speaker.device_id: first.document})


async def test_one_time_keys_are_claimed_once_each(speakers: Speakers) -> None:
    """Two one-time keys, and then the fallback key for everybody."""
    speaker, listener = speakers
    device = DeviceKeys(speaker)
    single = {**device.one_time_key(), **device.one_time_key()}
    fallback = device.one_time_key(is_fallback=True)
    counts = await device.publish(one_time_keys=single, fallback_keys=fallback)
    assert counts["signed_curve25519"] == 2
    request = {"one_time_keys": {speaker.user_id: {speaker.device_id: "signed_curve25519"}}}
    claimed: list[JsonObject] = []
    for _ in range(4):
        said = await listener.must("POST", "/keys/claim", request)
        assert not said.get("failures"), said
        claimed.append(said["one_time_keys"][speaker.user_id][speaker.device_id])
    assert {**claimed[0], **claimed[1]} == single
    assert claimed[0] != claimed[1]
    assert claimed[2:] == [fallback, fallback]


async def test_to_device_messages_arrive_once_and_in_order(speakers: Speakers) -> None:
    """To one device and to all of a user."""
    speaker, listener = speakers
    await listener.sync()
    targets = [listener.device_id, "*", listener.device_id]
    for number, target in enumerate(targets):
        content = {"number": number, "text": "grüße"}
        path = f"/sendToDevice/org.example.note/{secrets.token_hex(8)}"
        body = {"messages": {listener.user_id: {target: content}}}
        for _ in range(2):  # a repeat under the same transaction ID
            await speaker.must("PUT", path, body)
    await listener.until(lambda: len(listener.to_device) >= len(targets), "the messages")
    await listener.sync()
    assert [
        (event["sender"], event["type"], event["content"]["number"]) for event in listener.to_device
    ] == [(speaker.user_id, "org.example.note", number) for number in range(len(targets))]


async def test_cross_signing_keys_reach_the_other_server(speakers: Speakers) -> None:
    """The master key and the self-signing key; the user-signing key is nobody else's business."""
    speaker, listener = speakers
    await DeviceKeys(speaker).publish()
    await until_changed(listener, speaker.user_id)
    keys = CrossSigningKeys.made_for(speaker.user_id)
    await keys.publish(speaker)
    await until_changed(listener, speaker.user_id)
    said = await until_answered(
        listener, speaker.user_id, lambda answer: answer.get("master_keys", {}).get(speaker.user_id)
    )
    assert said["master_keys"][speaker.user_id]["keys"] == keys.master["keys"]
    assert said["self_signing_keys"][speaker.user_id] == keys.self_signing
    assert speaker.user_id not in said.get("user_signing_keys", {})


async def test_devices_that_came_while_no_room_was_shared_are_learned_later(
    speakers: Speakers,
) -> None:
    """The listener's client is told to forget who left, and to ask anew who comes back: meanwhile
    nothing was sent of the new device."""
    speaker, listener = speakers
    first = DeviceKeys(speaker)
    await first.publish()
    await until_devices(listener, speaker.user_id, {speaker.device_id: first.document})
    room_id = next(iter(speaker.rooms))
    await speaker.leave(room_id)
    await listener.until(lambda: speaker.user_id in listener.left, "the one who left")

    again = Person(speaker.session, speaker.url)
    await again.log_in(speaker.user_id)
    second = DeviceKeys(again)
    await second.publish()
    await listener.sync()
    listener.changed.clear()
    await speaker.join(room_id, listener.server)
    await until_changed(listener, speaker.user_id)
    both = {speaker.device_id: first.document, again.device_id: second.document}
    await until_devices(listener, speaker.user_id, both)


@pytest.mark.parametrize("maker", ["our client", "nio"])
@pytest.mark.parametrize("our_side", SIDES, ids=lambda side: f"our client on {side}")
async def test_encrypted_words_pass_between_our_client_and_nio(
    pair: Pair, tmp_path: Path, our_side: Side, maker: str
) -> None:
    """Each queries the other's devices, claims a key and shares its session, both ways."""
    olga = await Client.register(
        pair.plan(our_side).tls_url,
        f"olga-{secrets.token_hex(3)}",
        PASSWORD,
        store_path=tmp_path / "olga.sqlite",
        store_key=secrets.token_bytes(32),
        ssl=client_context(pair.authority_path),
    )
    nina = NioPerson(pair.plan(other(our_side)).http_url, tmp_path)
    try:
        await nina.register(f"nina-{secrets.token_hex(3)}")
        room_id = await encrypted_room(olga, nina, maker)
        await olga.send_text(room_id, "sealed by us")
        await nina.until_read(room_id, "sealed by us")
        await nina.say(room_id, "sealed by nio")
        await nina.until_read(room_id, "sealed by nio")
        await olga.until(lambda _: "sealed by nio" in bodies(olga, room_id), deadline_s=DEADLINE_S)
        assert nina.read(room_id) == [
            (olga.user_id, "sealed by us", True),
            (nina.user_id, "sealed by nio", True),
        ]
        assert bodies(olga, room_id) == ["sealed by us", "sealed by nio"]
        assert all(message.encrypted for message in olga.timeline(room_id))
    finally:
        await nina.close()
        await olga.close()


async def encrypted_room(olga: Client, nina: NioPerson, maker: str) -> str:
    """Return an encrypted room that one of them made and both are in, each knowing of the other."""
    if maker == "nio":
        made = await nina.client.room_create(invite=[olga.user_id], initial_state=[ENCRYPTION])
        room_id: str = good(made).room_id
        await olga.join(room_id, via=[nina.user_id.partition(":")[2]])
    else:
        room_id = await olga.create_room(name="sealed", invite=[nina.user_id])
        await nina.until_invited(room_id)
        good(await nina.client.join(room_id))
    await nina.until(lambda: olga.user_id in nio_members(nina, room_id))
    await olga.until(
        lambda _: nina.user_id in olga.members(room_id) and olga.is_encrypted(room_id),
        deadline_s=DEADLINE_S,
    )
    return room_id
