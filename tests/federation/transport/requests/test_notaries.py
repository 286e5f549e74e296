"""Keys by way of another server: of the one that gave us a room's state, above all."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import KeyId, RoomId, ServerName
from federation.events.signing import SigningKey, VerifyKey, sign_json
from federation.graph.admission import Accepted
from federation.limits import NOTARY_SIGNERS_TRIED_MAX
from federation.ports import StoredServerKey
from federation.transport.joining import joining
from federation.transport.joining.joining import MembershipRequest
from federation.transport.requests import notaries
from federation.transport.requests.key_documents import KeyWanted
from federation.transport.requests.keyring import KeyUnavailable
from tests.federation.transport.loopback import Loopback, Peer, loopback
from tests.federation.transport.requests.test_keyring import serving

K1 = KeyId("ed25519:k1")


def wish(peer: Peer, room_id: RoomId) -> MembershipRequest:
    return MembershipRequest(room_id, peer.user("bob"), {})


# --- events of servers that are away --------------------------------------------------------------


async def with_ban(net: Loopback) -> tuple[Peer, Peer, RoomId, Event]:
    """Returns a room of a.test in which a moderator of another server, which is away now, banned a
    user."""
    a, c = await net.peer("a.test"), await net.peer("c.test")
    room_id = a.rooms.create_room(a.user("alice"))
    moderator = await c.join(a, room_id, "moderator")
    content: JsonObject = {"users": {a.user("alice"): 100, moderator: 100}}
    levels = a.rooms.send(room_id, a.user("alice"), "m.room.power_levels", content, state_key="")
    await c.rooms.accept(levels, Accepted())
    ban = c.rooms.send(
        room_id, moderator, "m.room.member", {"membership": "ban"}, state_key="@mallory:m.test"
    )
    assert await a.rooms.accept(ban, Accepted()) == Accepted()
    await a.keyring.request_key(c.name, K1)
    net.addresses[c.name] = "127.0.0.1:1"
    return a, c, room_id, ban


async def test_a_ban_by_a_user_of_a_server_that_is_away_holds_after_a_join() -> None:
    """The resident, whose word the state is, has the key that verifies it."""
    async with loopback() as net:
        a, c, room_id, ban = await with_ban(net)
        b = await net.peer("b.test")
        await b.joining.join(wish(b, room_id), [a.name])
        state = await b.rooms.current_state_ids(room_id)
        assert state[("m.room.member", "@mallory:m.test")] == ban.event_id
        with pytest.raises(KeyUnavailable):  # it counts for what it was asked for alone
            await b.keyring.request_key(c.name, K1)


@pytest.mark.parametrize("lie", ["other key", "of another server", "without its own signature"])
async def test_a_resident_can_not_vouch_for_what_its_document_does_not_show(lie: str) -> None:
    async with loopback() as net:
        a, c, room_id, ban = await with_ban(net)
        b = await net.peer("b.test")
        [true] = (one.document for one in a.keyring.documents.of(c.name))
        mallory = SigningKey.generate(bytes([99]) * 32, "k1")
        plain = {name: true[name] for name in true if name != "signatures"}
        if lie == "other key":
            entry = {"key": mallory.verify_key.encoded}
            plain["verify_keys"] = {K1: entry}
            served = sign_json(sign_json(plain, c.name, mallory), a.name, a.key)
        elif lie == "of another server":
            served = sign_json(
                sign_json({**plain, "server_name": "x.test"}, ServerName("x.test"), c.key),
                a.name,
                a.key,
            )
        else:
            served = sign_json(plain, a.name, a.key)
        a.lies["/key/v2/query"] = serving({"server_keys": [served]})
        await b.joining.join(wish(b, room_id), [a.name])
        assert ban.event_id not in (await b.rooms.current_state_ids(room_id)).values()


async def test_a_key_that_is_known_is_not_replaced_by_a_residents_word() -> None:
    async with loopback() as net:
        a, c, room_id, _ = await with_ban(net)
        b = await net.peer("b.test")
        mallory = SigningKey.generate(bytes([99]) * 32, "k1")
        known = StoredServerKey(
            c.name, K1, mallory.verify_key.encoded, net.clock.now_ms() + 10**9, 1
        )
        await b.keys.store_keys([known])
        await b.joining.join(wish(b, room_id), [a.name])
        state = await b.rooms.current_state_ids(room_id)
        assert ("m.room.member", "@mallory:m.test") not in state


async def test_keys_of_many_servers_are_asked_for_in_few_requests(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notaries, "NOTARY_SERVERS_PER_REQUEST_MAX", 2)
    monkeypatch.setattr(notaries, "NOTARY_REQUESTS_PER_ANSWER_MAX", 2)
    monkeypatch.setattr(joining, "SERVERS_LOGGED_MAX", 1)
    async with loopback() as net:
        a = await net.peer("a.test")
        room_id = a.rooms.create_room(a.user("alice"))
        for number in range(6):
            other = await net.peer(f"c{number}.test")
            await other.join(a, room_id, "member")
            await a.keyring.request_key(other.name, K1)
            net.addresses[other.name] = "127.0.0.1:1"
        b = await net.peer("b.test")
        caplog.clear()
        before = a.metrics.counts["federation_requests"]
        await b.joining.join(wish(b, room_id), [a.name])
        # make_join, our key document, send_join, its own for its signature; and the two questions
        assert a.metrics.counts["federation_requests"] - before <= 6
        state = await b.rooms.current_state_ids(room_id)
        assert sum(kind == "m.room.member" for kind, _ in state) == 1 + 4 + 1
        [warning] = [one for one in caplog.messages if "can't be had" in one]
        assert "2 events" in warning
        assert warning.count(".test") == 2, "the room's, and one of both servers'"


@pytest.mark.parametrize("more", [0, 1])
async def test_so_many_keys_of_a_notary_are_tried_on_a_document(more: int) -> None:
    """A document may name any number of its signer's keys, each of which would be looked for."""
    async with loopback() as net:
        a, b, c = [await net.peer(f"{name}.test") for name in "abc"]
        await b.keyring.request_key(c.name, K1)
        [true] = (one.document for one in b.keyring.documents.of(c.name))
        names = [KeyId(f"ed25519:n{n}") for n in range(NOTARY_SIGNERS_TRIED_MAX + more)]
        made = {**true["signatures"], b.name: dict.fromkeys(names, "x")}
        b.lies["/key/v2/query"] = serving({"server_keys": [{**true, "signatures": made}]})
        looked_for: list[KeyId] = []

        async def find(_: ServerName, key_ids: Sequence[KeyId]) -> Sequence[VerifyKey]:
            looked_for.extend(key_ids)
            return ()

        asking = notaries.Notaries(a.client, net.clock, find)
        assert not await asking.ask_trusted(b.name, [KeyWanted(c.name, K1, 0)])
        assert looked_for == names[:NOTARY_SIGNERS_TRIED_MAX]
