"""Questions about our users: bounded, and about ours alone."""

import pytest

from federation.events.canonical_json import JsonObject
from federation.limits import DEVICES_PER_USER_REQUEST_MAX, USERS_PER_KEYS_REQUEST_MAX
from federation.transport.requests.client import FederationError, ServerRequest
from tests.federation.transport.loopback import Peer, loopback

V1 = "/_matrix/federation/v1"


async def post(peer: Peer, to: Peer, path: str, content: JsonObject) -> int:
    try:
        await peer.client.request(ServerRequest(to.name, "POST", f"{V1}{path}", content))
    except FederationError as error:
        return error.status or 0
    return 200


@pytest.mark.off_spec("keys are made up")
async def test_limits_of_key_requests_hold_on_both_sides() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        for over, status in ((0, 200), (1, 400)):
            users: JsonObject = {
                f"@u{i}:b.test": [] for i in range(USERS_PER_KEYS_REQUEST_MAX + over)
            }
            assert await post(a, b, "/user/keys/query", {"device_keys": users}) == status
            devices = [f"D{i}" for i in range(DEVICES_PER_USER_REQUEST_MAX + over)]
            of_bob: JsonObject = {"device_keys": {"@bob:b.test": devices}}
            assert await post(a, b, "/user/keys/query", of_bob) == status
            wanted: JsonObject = {"@bob:b.test": dict.fromkeys(devices, "x")}
            assert await post(a, b, "/user/keys/claim", {"one_time_keys": wanted}) == status


@pytest.mark.off_spec("malformed by intent")
@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/user/keys/query", {}),
        ("/user/keys/query", {"device_keys": []}),
        ("/user/keys/query", {"device_keys": {"@bob:b.test": {}}}),
        ("/user/keys/query", {"device_keys": {"@bob:b.test": [7]}}),
        ("/user/keys/claim", {"one_time_keys": {"@bob:b.test": []}}),
        ("/user/keys/claim", {"one_time_keys": {"@bob:b.test": {"D": 7}}}),
    ],
)
async def test_malformed_key_requests_are_refused(path: str, content: JsonObject) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        assert await post(a, b, path, content) == 400


@pytest.mark.off_spec("malformed by intent")
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/query/profile", 400),
        ("/query/profile?user_id=bob", 400),
        ("/query/profile?user_id=%40bob%3Ac.test", 404),
        ("/query/directory", 400),
        ("/query/directory?room_alias=x", 400),
        ("/query/directory?room_alias=%23x%3Ac.test", 404),
        ("/user/devices/%40bob%3Ac.test", 404),
        ("/unknown", 404),
    ],
)
async def test_other_questions_are_refused(path: str, status: int) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        with pytest.raises(FederationError) as caught:
            await a.client.get(b.name, f"{V1}{path}")
        assert caught.value.status == status
