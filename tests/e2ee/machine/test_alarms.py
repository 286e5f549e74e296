"""Alarms: all of them until they are taken, within a bound."""

from e2ee.limits import NOTICES_MAX
from e2ee.machine.alarms import Alarms, Notice, NoticeKind


def test_alarms_are_taken_once_and_in_order() -> None:
    """Each with what it is about; the next ones start anew."""
    alarms = Alarms()
    alarms.post(NoticeKind.DEVICE_KEYS_CHANGED, "@bob:hs.test", "DEV")
    alarms.post(NoticeKind.OLM_REFUSED, "@eve:hs.test", detail="check 1: sender")
    assert alarms.take() == (
        Notice(NoticeKind.DEVICE_KEYS_CHANGED, "@bob:hs.test", "DEV", ""),
        Notice(NoticeKind.OLM_REFUSED, "@eve:hs.test", "", "check 1: sender"),
    )
    assert alarms.take() == ()
    alarms.post(NoticeKind.NO_ONE_TIME_KEY)
    assert alarms.take() == (Notice(NoticeKind.NO_ONE_TIME_KEY),)


def test_a_flood_of_alarms_costs_the_oldest_only() -> None:
    """An application that never takes them doesn't run out of memory."""
    alarms = Alarms()
    for number in range(NOTICES_MAX):
        alarms.post(NoticeKind.OLM_REFUSED, detail=str(number))
    assert len(alarms.take()) == NOTICES_MAX
    for number in range(NOTICES_MAX + 2):
        alarms.post(NoticeKind.OLM_REFUSED, detail=str(number))
    taken = alarms.take()
    assert len(taken) == NOTICES_MAX
    assert (taken[0].detail, taken[-1].detail) == ("2", str(NOTICES_MAX + 1))
