"""mautrix-python, whose Olm and Megolm are libolm's, and our own client read each other."""

import secrets
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

import pytest

from lab.running import Lab
from tests.interop.conftest import NioEntry, OurEntry
from tests.interop.nio_person import PASSWORD, good
from tests.interop.test_matrix_nio_encryption import (
    both_places,
    sealed_room,
    until_member,
    until_nio_sees,
    until_read,
)

pytest.importorskip("mautrix", reason="mautrix isn't installed: pip install mautrix[encryption]")
pytest.importorskip("olm", reason="python-olm has no wheel for this Python")

from tests.interop.mautrix_person import MautrixPerson, api_sdk, types

errors: Any = import_module("mautrix.errors")
pytestmark = [
    pytest.mark.processes,
    # mautrix warns of what it does itself
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mautrix"),
]


@pytest.fixture
async def mary(servers: Lab) -> AsyncIterator[MautrixPerson]:
    """A person with mautrix on hs1."""
    person = MautrixPerson(servers.topology.server("hs1").http_url)
    localpart = f"mary-{secrets.token_hex(3)}"
    await person.register(localpart)
    await person.login(localpart)
    yield person
    await person.close()


async def test_a_further_device_logs_in_by_a_token_once(mary: MautrixPerson) -> None:
    """mautrix reads the flows, and has the device that is there ask for the token."""
    flows = await mary.client.get_login_flows()
    assert flows.supports_type(types.LoginType.PASSWORD, types.LoginType.TOKEN)
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": mary.user_id},
        "password": PASSWORD,
    }
    path = api_sdk.Path.v1.login.get_token
    made = await mary.client.api.request(api_sdk.Method.POST, path, {"auth": auth})
    token = made["login_token"]
    again = MautrixPerson(str(mary.client.api.base_url))
    found = await again.client.login(login_type=types.LoginType.TOKEN, token=token)
    assert (found.user_id, found.device_id == mary.client.device_id) == (mary.user_id, False)
    assert (await again.client.whoami()).device_id == found.device_id
    with pytest.raises(errors.MForbidden):
        await again.client.login(login_type=types.LoginType.TOKEN, token=token)
    await again.close()


async def test_it_logs_in_syncs_and_talks_in_the_open(mary: MautrixPerson, nio: NioEntry) -> None:
    """Without encryption, with matrix-nio on the other side."""
    nina = await nio("nina", "hs2")
    room_id = str(await mary.client.create_room(invitees=[nina.user_id], name="open"))
    await nina.until_invited(room_id)
    good(await nina.client.join(room_id))
    await until_nio_sees(nina, room_id, mary.user_id)
    await mary.say(room_id, "from mautrix")
    await nina.until_read(room_id, "from mautrix")
    await nina.say(room_id, "from nio")
    await mary.until_read(room_id, "from nio")
    assert mary.bodies(room_id) == ["from mautrix", "from nio"]


@both_places
async def test_libolm_and_our_client_read_each_other(
    mary: MautrixPerson, ours: OurEntry, place: str
) -> None:
    """Olm sessions begun by either side, Megolm sessions of both, and more than one message."""
    olga = await ours("olga", place)
    room_id = await sealed_room(olga)
    await olga.invite(room_id, mary.user_id)
    await mary.until(lambda: room_id in invites(mary))
    await mary.client.join_room(room_id, servers=[place])
    await until_member(olga, room_id, mary.user_id)
    await mary.until(lambda: room_id in mary.client.state_store.encryption)
    await olga.send_text(room_id, "sealed by us")
    await mary.until_read(room_id, "sealed by us")
    await mary.say(room_id, "sealed by libolm")
    await until_read(olga, room_id, "sealed by libolm")
    await olga.send_text(room_id, "and again")
    await mary.until_read(room_id, "and again")
    assert mary.bodies(room_id) == ["sealed by us", "sealed by libolm", "and again"]
    assert all(event.get("mautrix", {}).get("was_encrypted") for event in mary.came)
    assert all(message.encrypted for message in olga.timeline(room_id))


async def test_new_megolm_sessions_pass_through_old_olm_channels(
    mary: MautrixPerson, ours: OurEntry
) -> None:
    """The Olm ratchet turns with each side's words, and libolm's and ours stay in step."""
    olga = await ours("olga", "hs2")
    room_id = await sealed_room(olga)
    await olga.invite(room_id, mary.user_id)
    await mary.until(lambda: room_id in invites(mary))
    await mary.client.join_room(room_id, servers=["hs2"])
    await until_member(olga, room_id, mary.user_id)
    await mary.until(lambda: room_id in mary.client.state_store.encryption)
    for turn in range(4):
        await olga.send_text(room_id, f"ours {turn}")
        await mary.until_read(room_id, f"ours {turn}")
        await mary.say(room_id, f"libolm's {turn}")
        await until_read(olga, room_id, f"libolm's {turn}")
        olga.machine.end_session(room_id)
        await mary.store.remove_outbound_group_session(room_id)
    assert len({message.session_id for message in olga.timeline(room_id)}) == 8
    await mary.until(lambda: len(mary.bodies(room_id)) == 8)


def invites(person: MautrixPerson) -> set[str]:
    """Rooms that mautrix was invited to."""
    rooms = person.client.state_store.members
    return {room for room, members in rooms.items() if is_invited(members.get(person.user_id))}


def is_invited(member: object) -> bool:
    """Whether a member's state is an invite."""
    return getattr(getattr(member, "membership", None), "value", "") == "invite"
