"""Questions to other servers about their users, and answers that speak of others."""

from typing import Any, cast

import pytest

from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, RoomAlias, RoomId, ServerName, UserId
from federation.limits import HIERARCHY_ANSWER_BYTES_MAX, PUBLIC_ROOMS_ANSWER_BYTES_MAX
from federation.listing_ports import DirectoryQuestion
from federation.transport.requests.client import FailureKind, FederationError
from federation.transport.requests.dialer import Bounds
from federation.transport.requests.queries import Queries
from homeserver.limits import REMOTE_DIRECTORY_S, SUMMARY_REQUEST_S
from tests.federation.transport.loopback import loopback

D1 = DeviceId("D1")


@pytest.mark.off_spec("keys are made up")
async def test_profiles_come_from_the_users_server() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        bob = b.user("bob")
        assert await a.queries.profile(bob) == {"displayname": bob, "avatar_url": "mxc://b.test/x"}
        assert await a.queries.profile(bob, "displayname") == {"displayname": bob}
        with pytest.raises(FederationError) as caught:
            await a.queries.profile(b.user("nobody"))
        assert (caught.value.status, caught.value.errcode) == (404, "M_NOT_FOUND")
        assert not caught.value.is_retryable


@pytest.mark.off_spec("keys are made up")
async def test_a_server_answers_for_its_own_users_alone() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        stranger = UserId("@carol:c.test")
        target = "/_matrix/federation/v1/query/profile?user_id=%40carol%3Ac.test"
        with pytest.raises(FederationError) as caught:
            await a.client.get(b.name, target)
        assert caught.value.status == 404
        await a.queries.keys_claim(b.name, {stranger: {D1: "x"}, b.user("bob"): {D1: "x"}})
        assert list(b.users.claims[0]) == [b.user("bob")]


async def test_the_directory_gives_a_room_and_valid_servers() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        found = await a.queries.directory(RoomAlias("#x:b.test"))
        assert found == ("!room:b.test", (b.name,))


@pytest.mark.off_spec("keys are made up")
async def test_keys_of_a_device_that_say_they_are_anothers_are_dropped() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        found = await a.queries.devices(b.user("bob"))
        assert found.stream_id == 7
        assert [sorted(device) for device in found.devices] == [
            ["device_id", "keys"],
            ["device_id"],
        ]
        assert found.master_key is not None
        assert found.self_signing_key is None


@pytest.mark.off_spec("keys are made up")
async def test_key_answers_count_only_for_who_was_asked_and_says_so() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        bob, eve = b.user("bob"), UserId("@eve:a.test")
        good = {"user_id": bob, "device_id": "D1"}
        b.users.lie = {
            "device_keys": {bob: {"D1": good, "D2": good, "D3": 4}, eve: {"D1": good}},
            "master_keys": {bob: {"user_id": eve, "keys": {}}, eve: {"user_id": eve, "keys": {}}},
            "self_signing_keys": {bob: {"user_id": bob, "keys": {}}},
        }
        found = await a.queries.keys_query(b.name, {bob: []})
        assert found == {
            "device_keys": {bob: {"D1": good}},
            "master_keys": {},
            "self_signing_keys": {bob: {"user_id": bob, "keys": {}}},
        }


@pytest.mark.off_spec("keys are made up")
async def test_claimed_keys_are_those_that_were_asked_for() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        bob = b.user("bob")
        wanted = {bob: {D1: "signed_curve25519"}}
        found = await a.queries.keys_claim(b.name, wanted)
        assert found == {"one_time_keys": {bob: {"D1": {"signed_curve25519:A": {"key": "k"}}}}}
        given: JsonObject = {"D1": {"other:A": {}}, "D2": {"signed_curve25519:A": {}}}
        b.users.lie = {"one_time_keys": {bob: given, "@eve:a.test": given}}
        assert await a.queries.keys_claim(b.name, wanted) == {"one_time_keys": {bob: {}}}


@pytest.mark.parametrize("lie", [{"one_time_keys": 7}, {"one_time_keys": {}}])
@pytest.mark.off_spec("keys are made up")
async def test_malformed_answers_are_empty(lie: JsonObject) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.users.lie = lie
        found = await a.queries.keys_claim(b.name, {b.user("bob"): {D1: "x"}})
        assert found == {"one_time_keys": {}}


async def test_a_server_that_is_down_is_told_by_kind_and_then_left_alone() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        await b.runner.cleanup()
        kinds = []
        for _ in range(2):
            with pytest.raises(FederationError) as caught:
                await a.queries.profile(b.user("bob"))
            assert caught.value.is_retryable
            kinds.append(caught.value.kind)
        assert kinds == [FailureKind.REFUSED, FailureKind.BACKING_OFF]


class ScriptedClient:
    """Stands for the client: one answer."""

    def __init__(self, answer: JsonObject) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def get(self, _server: ServerName, target: str) -> JsonObject:
        """Returns the answer."""
        self.asked.append(target)
        return self.answer


class BoundedClient:
    """Notes the bounds of a question."""

    async def get(self, server: ServerName, target: str, *, bounds: Bounds) -> JsonObject:
        """Returns what it was asked for."""
        return {"server": server, "target": target, "bounds": bounds}


async def test_a_hierarchy_is_asked_for_within_bounds_of_its_own() -> None:
    """A server that takes longer, or says more, counts as one that says nothing."""
    queries = Queries(cast(Any, BoundedClient()))
    room_id, server = RoomId("!a/b:b.test"), ServerName("b.test")
    asked = await queries.hierarchy(server, room_id, timeout_s=SUMMARY_REQUEST_S)
    assert asked == {
        "server": server,
        "target": "/_matrix/federation/v1/hierarchy/%21a%2Fb%3Ab.test",
        "bounds": Bounds(timeout_s=SUMMARY_REQUEST_S, bytes_max=HIERARCHY_ANSWER_BYTES_MAX),
    }


async def test_a_directory_is_asked_for_a_page_or_a_search() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        for question in (
            DirectoryQuestion(),
            DirectoryQuestion(5, "to ken"),
            DirectoryQuestion(instance_id="irc|net"),
            DirectoryQuestion(all_networks=True),
            DirectoryQuestion(5, "t", "irc", search_term="x", room_types=(None, "m.space")),
            DirectoryQuestion(all_networks=True, search_term="x"),
            DirectoryQuestion(room_types=()),
        ):
            page = await a.queries.public_rooms(b.name, question, timeout_s=REMOTE_DIRECTORY_S)
            assert page == {"chunk": []}
            assert b.listings.asked[-1] == (question,), "the other side reads what was asked"
    queries = Queries(cast(Any, BoundedClient()))
    asked = await queries.public_rooms(
        ServerName("b.test"), DirectoryQuestion(), timeout_s=REMOTE_DIRECTORY_S
    )
    bounds = Bounds(timeout_s=REMOTE_DIRECTORY_S, bytes_max=PUBLIC_ROOMS_ANSWER_BYTES_MAX)
    assert asked["bounds"] == bounds


async def test_a_room_of_another_server_says_whether_guests_may_join() -> None:
    room_id, server = RoomId("!a/b:b.test"), ServerName("b.test")
    for may_join in (True, False, "yes", None):
        client = ScriptedClient({"room": {"room_id": room_id, "guest_can_join": may_join}})
        found = await Queries(cast(Any, client)).guests_may_join(server, room_id)
        assert found is (may_join is True)
        [target] = client.asked
        assert target == "/_matrix/federation/v1/hierarchy/%21a%2Fb%3Ab.test?suggested_only=true"
    odd: list[JsonObject] = [
        {},
        {"room": []},
        {"room": {"guest_can_join": True}},
        {"room": {"room_id": "!other:b.test", "guest_can_join": True}},
    ]
    for answer in odd:
        with pytest.raises(FederationError):
            await Queries(cast(Any, ScriptedClient(answer))).guests_may_join(server, room_id)
