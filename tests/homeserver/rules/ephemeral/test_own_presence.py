"""A user's presence, of what their devices do and what time does."""

import pytest

from federation.events.ids import DeviceId
from homeserver import limits
from homeserver.rules.ephemeral.own_presence import OwnPresence

PHONE, LAPTOP = DeviceId("PHONE"), DeviceId("LAPTOP")
OFFLINE_S, IDLE_S = limits.PRESENCE_OFFLINE_S, limits.PRESENCE_IDLE_S
ACTIVE_S = limits.PRESENCE_ACTIVE_S
A_LITTLE = 0.5


class User:
    """A user and their clock."""

    def __init__(self) -> None:
        self.own, self.now_s = OwnPresence(), 1000.0

    @property
    def state(self) -> str:
        return self.own.shown(self.now_s).state

    @property
    def is_active(self) -> bool:
        return self.own.shown(self.now_s).is_active

    def begin(self, device: DeviceId = PHONE, said: str | None = None) -> None:
        self.own.sync_began(device, said, self.now_s)

    def sync(self, device: DeviceId = PHONE, said: str | None = None) -> None:
        if self.own.sync_began(device, said, self.now_s):
            self.own.sync_ended(device, self.now_s)

    def choose(self, state: str, device: DeviceId = PHONE, status: str | None = None) -> None:
        lasts_s = limits.PRESENCE_SET_S
        self.own.choose(device, state, status, now_s=self.now_s, lasts_s=lasts_s)


@pytest.fixture
def user() -> User:
    return User()


def test_a_user_is_online_while_they_sync_and_a_while_longer(user: User) -> None:
    assert (user.state, user.own.due_s(user.now_s)) == ("offline", None)
    user.begin()
    assert (user.state, user.is_active) == ("online", True)
    user.now_s += 120  # one long poll
    user.own.sync_ended(PHONE, user.now_s)
    user.now_s += OFFLINE_S - A_LITTLE
    assert user.state == "online"
    assert user.own.due_s(user.now_s) == pytest.approx(user.now_s + A_LITTLE)
    user.now_s += A_LITTLE
    assert user.state == "offline"
    assert user.own.is_gone


def test_syncing_on_is_no_activity(user: User) -> None:
    began_s = user.now_s
    user.begin()
    assert user.own.due_s(user.now_s) == began_s + ACTIVE_S
    user.now_s = began_s + ACTIVE_S
    assert (user.state, user.is_active) == ("online", False)
    user.sync()
    assert not user.is_active
    assert user.own.due_s(user.now_s) == began_s + IDLE_S
    user.now_s = began_s + IDLE_S
    user.sync()
    assert user.state == "unavailable"
    assert user.own.active_s == began_s
    user.own.act(user.now_s)
    assert (user.state, user.is_active, user.own.active_s) == ("online", True, user.now_s)


@pytest.mark.parametrize("said", ["online", "unavailable", None])
def test_a_sync_says_what_the_device_is(user: User, said: str | None) -> None:
    user.sync(said=said)
    assert user.state == (said or "online")


def test_a_sync_that_says_offline_marks_nothing(user: User) -> None:
    user.sync(said="offline")
    assert (user.state, user.own.is_gone) == ("offline", True)
    user.choose("online")
    user.sync(said="offline")
    assert user.state == "online", "it was set otherwise"


def test_a_sync_that_says_offline_ends_what_syncs_before_it_marked(user: User) -> None:
    user.begin()
    user.sync(said="offline")
    assert user.state == "offline"
    user.own.sync_ended(PHONE, user.now_s)
    assert user.state == "offline"
    user.sync()
    assert user.state == "online"


def test_the_most_present_device_counts(user: User) -> None:
    user.sync(PHONE, "unavailable")
    assert user.state == "unavailable"
    user.begin(LAPTOP)
    assert user.state == "online"
    user.now_s += OFFLINE_S
    assert user.state == "online"
    user.sync(PHONE, "unavailable")
    user.own.forget([LAPTOP])
    assert user.state == "unavailable"
    user.own.sync_ended(LAPTOP, user.now_s)
    assert user.state == "unavailable", "a sync that outlives its log-out"


@pytest.mark.parametrize("state", ["online", "offline", "unavailable"])
def test_a_chosen_state_wins_over_syncs_that_say_nothing(user: User, state: str) -> None:
    user.sync()
    user.choose(state)
    for _ in range(20):
        user.now_s += OFFLINE_S - A_LITTLE
        user.own.act(user.now_s) if state == "online" else None
        user.sync()
        assert user.state == state


def test_a_sync_that_says_something_else_is_a_new_choice(user: User) -> None:
    user.sync(said="online")
    user.choose("offline")
    user.sync(said="online")
    assert user.state == "offline", "the same as before is nothing new"
    user.sync(said="unavailable")
    assert user.state == "unavailable"


def test_a_choice_ends_when_the_device_is_long_gone(user: User) -> None:
    user.choose("offline")
    user.sync()
    user.now_s += max(OFFLINE_S, limits.PRESENCE_SET_S)
    user.sync()
    assert user.state == "online"


def test_a_choice_without_syncs_holds_for_its_time(user: User) -> None:
    user.choose("unavailable", status="out")
    assert user.own.shown(user.now_s).status == "out"
    user.now_s += limits.PRESENCE_SET_S - A_LITTLE
    assert user.state == "unavailable"
    user.now_s += A_LITTLE
    assert user.state == "offline"
    assert user.own.shown(user.now_s).status == "out", "the status is the user's, not a device's"


def test_a_choice_sets_the_status_or_ends_it_and_is_an_activity(user: User) -> None:
    user.choose("unavailable", status="out")
    assert user.own.active_s == user.now_s
    user.now_s += 5
    user.choose("online")
    assert user.own.shown(user.now_s).status is None
    assert user.own.active_s == user.now_s


@pytest.mark.parametrize("is_chosen", [True, False])
def test_an_activity_makes_an_unavailable_user_online(user: User, is_chosen: bool) -> None:
    if is_chosen:
        user.sync()
        user.choose("unavailable")
    else:
        user.sync(said="unavailable")
    user.own.act(user.now_s)
    assert user.state == "online"
    user.sync(said=None if is_chosen else "unavailable")
    assert user.state == "online", "that they go on syncing says nothing new"


def test_an_activity_shows_nothing_of_who_is_offline(user: User) -> None:
    user.sync()
    user.choose("offline")
    before_s = user.own.active_s
    user.now_s += 5
    user.own.act(user.now_s)
    assert (user.state, user.own.active_s) == ("offline", before_s)


def test_a_further_device_takes_the_place_of_the_oldest(user: User) -> None:
    for number in range(limits.PRESENCE_DEVICES_PER_USER):
        user.sync(DeviceId(str(number)), "unavailable" if number else "online")
    assert user.state == "online"
    user.sync(DeviceId("one more"), "unavailable")
    assert user.state == "unavailable"
