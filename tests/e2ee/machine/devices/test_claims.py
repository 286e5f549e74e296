"""Claims of one-time keys: only signed ones open a channel, nobody is asked without end, and a
broken channel is mended."""

from typing import Any

import pytest

from e2ee.crypto.primitives import encode_base64
from e2ee.limits import CLAIM_RETRY_MS, UNWEDGE_INTERVAL_MS
from e2ee.machine.alarms import NoticeKind
from e2ee.machine.devices.claims import Claims
from e2ee.machine.olm.olm_channels import read_encrypted_event
from e2ee.machine.requests import ClaimKeys
from tests.e2ee.device_parts import DeviceParts, as_received

JsonObject = dict[str, Any]
ALICE, BOB = "@alice:hs.test", "@bob:hs.test"
BOBS = (BOB, "DEV")
SMALL_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "ec" + "ff" * 30 + "7f",
]


@pytest.fixture
def bob() -> DeviceParts:
    """Returns bob's device."""
    return DeviceParts(BOB)


@pytest.fixture
def alice(bob: DeviceParts) -> DeviceParts:
    """Returns alice's device, which knows bob's."""
    alice = DeviceParts(ALICE)
    alice.learn(bob.device)
    return alice


def claim(alice: DeviceParts, answer: JsonObject, now_ms: int = 0) -> ClaimKeys:
    """Makes the claim that is due; the server answers with these keys of bob's device."""
    request = ClaimKeys("claim", tuple(alice.claims.due(now_ms)))
    assert request.devices == (BOBS,)
    alice.claims.begin(request)
    response = {"one_time_keys": {BOB: {"DEV": answer}}}
    alice.claims.receive(request, as_received(response), now_ms)
    return request


def signed(bob: DeviceParts) -> JsonObject:
    """Returns a claimed key, under its name."""
    return {"signed_curve25519:AAAB": bob.one_time_key()}


def test_a_wanted_channel_is_claimed_once_and_opened(alice: DeviceParts, bob: DeviceParts) -> None:
    """Wanting it twice asks once; while the answer is out nobody asks again."""
    alice.claims.want([bob.device, bob.device])
    assert alice.claims.due(0) == [BOBS]
    alice.claims.want([bob.device])
    claim(alice, signed(bob))
    assert len(alice.channels.of(bob.device).sessions) == 1
    assert alice.claims.due(0) == []
    assert alice.alarms() == []


def test_what_isnt_wanted_any_more_isnt_claimed(alice: DeviceParts, bob: DeviceParts) -> None:
    """`want` is for the next request; the one who still needs a channel says so again."""
    alice.claims.want([bob.device])
    alice.claims.due(0)
    assert alice.claims.due(0) == []


def test_one_claim_at_a_time_for_a_device(alice: DeviceParts, bob: DeviceParts) -> None:
    """Two would burn two of its keys; a claim without an answer may be made anew."""
    alice.claims.want([bob.device])
    request = ClaimKeys("claim", tuple(alice.claims.due(0)))
    alice.claims.begin(request)
    alice.claims.want([bob.device])
    assert alice.claims.due(0) == []
    alice.claims.fail(request)
    alice.claims.want([bob.device])
    assert alice.claims.due(0) == [BOBS]


def forged(bob: DeviceParts) -> list[JsonObject]:
    """Returns keys as a server might make them up."""
    key = bob.one_time_key()["key"]
    stranger = DeviceParts("@eve:hs.test")
    return [
        {"signed_curve25519:A": {"key": key}},
        {"signed_curve25519:A": {"key": key, "signatures": {}}},
        {"signed_curve25519:A": stranger.sign({"key": key})},
        {"signed_curve25519:A": DeviceParts(BOB).sign({"key": key})},
        {"signed_curve25519:A": bob.sign({"key": key}) | {"fallback": True}},
        {"signed_curve25519:A": bob.sign({"key": 5})},
        {"signed_curve25519:A": bob.sign({})},
        {"signed_curve25519:A": key},
        {"signed_curve25519:A": None},
        {"curve25519:A": key},
        {"curve25519:A": bob.sign({"key": key})},
    ]


@pytest.mark.parametrize("number", range(11))
def test_a_key_that_the_device_didnt_sign_opens_nothing(
    alice: DeviceParts, bob: DeviceParts, number: int
) -> None:
    """I11: the server could have made it, and would read what is sent to it."""
    alice.claims.want([bob.device])
    claim(alice, forged(bob)[number])
    assert alice.channels.of(bob.device).sessions == ()
    assert alice.alarms() == [NoticeKind.ONE_TIME_KEY_REFUSED]
    assert not alice.channels.may_claim(bob.device, CLAIM_RETRY_MS - 1)
    assert alice.channels.may_claim(bob.device, CLAIM_RETRY_MS)


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_a_small_order_one_time_key_opens_nothing(
    alice: DeviceParts, bob: DeviceParts, point: str
) -> None:
    """I9: with such a key everyone knows the shared secret; that bob signed it changes nothing."""
    key = bob.sign({"key": encode_base64(bytes.fromhex(point))})
    alice.claims.want([bob.device])
    claim(alice, {"signed_curve25519:A": key})
    assert alice.channels.of(bob.device).sessions == ()
    assert alice.alarms() == [NoticeKind.ONE_TIME_KEY_REFUSED]


@pytest.mark.parametrize(
    "response",
    [
        {},
        {"one_time_keys": None},
        {"one_time_keys": []},
        {"one_time_keys": {}},
        {"one_time_keys": {BOB: None}},
        {"one_time_keys": {BOB: []}},
        {"one_time_keys": {BOB: {}}},
        {"one_time_keys": {BOB: {"DEV": None}}},
        {"one_time_keys": {BOB: {"DEV": "signed_curve25519:A"}}},
        {"one_time_keys": {BOB: {"DEV": {}}}},
        {"one_time_keys": {BOB: {"OTHER": {"signed_curve25519:A": {}}}}},
        {"one_time_keys": {ALICE: {"DEV": {"signed_curve25519:A": {}}}}},
    ],
)
def test_a_device_without_a_key_is_asked_again_later(
    alice: DeviceParts, bob: DeviceParts, response: JsonObject
) -> None:
    """It is reported as such; a malformed answer is one without keys."""
    alice.claims.want([bob.device])
    request = ClaimKeys("claim", tuple(alice.claims.due(5)))
    alice.claims.begin(request)
    alice.claims.receive(request, response, 5)
    assert alice.alarms() == [NoticeKind.NO_ONE_TIME_KEY]
    assert not alice.channels.may_claim(bob.device, 5 + CLAIM_RETRY_MS - 1)
    assert alice.channels.may_claim(bob.device, 5 + CLAIM_RETRY_MS)


def test_a_device_that_went_meanwhile_gets_no_channel(alice: DeviceParts, bob: DeviceParts) -> None:
    """Its user's list was answered before the claim was; others in the claim get theirs."""
    second = DeviceParts(BOB, "SECOND")
    alice.learn(bob.device, second.device)
    alice.claims.want([bob.device, second.device])
    request = ClaimKeys("claim", tuple(alice.claims.due(0)))
    alice.claims.begin(request)
    alice.learn(second.device)
    keys = {"DEV": signed(bob), "SECOND": signed(second)}
    alice.claims.receive(request, as_received({"one_time_keys": {BOB: keys}}), 0)
    assert alice.channels.of(bob.device).sessions == ()
    assert len(alice.channels.of(second.device).sessions) == 1
    assert alice.alarms() == []


def test_a_broken_channel_is_mended_with_a_dummy(alice: DeviceParts, bob: DeviceParts) -> None:
    """The other side uses the new session once it has had a message in it."""
    alice.claims.mend(BOB, bob.device.curve25519, 0)
    claim(alice, signed(bob))
    [request] = alice.outbox.waiting()
    assert request.event_type == "m.room.encrypted"
    content = as_received(request.messages[BOB]["DEV"])
    envelope = read_encrypted_event({"sender": ALICE, "content": content}, bob.device)
    assert b'"m.dummy"' in bob.channels.decrypt(envelope, 0)
    assert alice.claims.due(10**12) == []


def test_a_channel_is_mended_once_an_hour(alice: DeviceParts, bob: DeviceParts) -> None:
    """K10: a flood of unreadable messages burns one key of the device, not one each."""
    for now_ms in (0, 1, UNWEDGE_INTERVAL_MS - 1):
        alice.claims.mend(BOB, bob.device.curve25519, now_ms)
    claim(alice, signed(bob))
    alice.claims.mend(BOB, bob.device.curve25519, UNWEDGE_INTERVAL_MS - 1)
    assert alice.claims.due(UNWEDGE_INTERVAL_MS - 1) == []
    alice.claims.mend(BOB, bob.device.curve25519, UNWEDGE_INTERVAL_MS)
    assert alice.claims.due(UNWEDGE_INTERVAL_MS) == [BOBS]


def test_a_made_up_key_gets_no_answer(alice: DeviceParts, bob: DeviceParts) -> None:
    """K10: nor does a listed key under another user's name."""
    stranger = DeviceParts("@eve:hs.test").device
    alice.claims.mend(BOB, stranger.curve25519, 0)
    alice.claims.mend("@eve:hs.test", stranger.curve25519, 0)
    alice.claims.mend("@eve:hs.test", bob.device.curve25519, 0)
    assert alice.claims.due(0) == []


def test_a_mending_that_found_no_key_is_tried_again(alice: DeviceParts, bob: DeviceParts) -> None:
    """As long as the device is listed; not before the pause is over."""
    alice.claims.mend(BOB, bob.device.curve25519, 0)
    claim(alice, {})
    assert alice.claims.due(CLAIM_RETRY_MS - 1) == []
    claim(alice, signed(bob), CLAIM_RETRY_MS)
    assert len(alice.outbox.waiting()) == 1


def test_a_mending_outlives_a_restart(alice: DeviceParts, bob: DeviceParts) -> None:
    """The message that showed the fault isn't delivered again."""
    alice.claims.mend(BOB, bob.device.curve25519, 0)
    again = Claims(
        alice.pending_changes,
        lists=alice.lists,
        channels=alice.channels,
        outbox=alice.outbox,
        alarms=alice.notices,
    )
    assert again.due(0) == [BOBS]
    claim(alice, signed(bob))
    alice.save()
    done = Claims(
        alice.pending_changes,
        lists=alice.lists,
        channels=alice.channels,
        outbox=alice.outbox,
        alarms=alice.notices,
    )
    assert done.due(10**12) == []


def test_a_device_that_is_gone_isnt_mended(alice: DeviceParts, bob: DeviceParts) -> None:
    """It logged out: nobody reads there."""
    alice.claims.mend(BOB, bob.device.curve25519, 0)
    alice.learn(DeviceParts(BOB, "SECOND").device)
    assert alice.claims.due(0) == []
