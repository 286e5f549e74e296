"""Each check by what the state has for the user."""

import immutables
import pytest

from federation.errors import MatrixError
from federation.events.ids import EventId, UserId
from homeserver.engine.local import membership_checks
from homeserver.engine.rooms.snapshots import StateMap, StateRef

BOB = UserId("@bob:here.example")


def ref(membership: str, event_id: str = "$e") -> StateRef:
    return StateRef(EventId(event_id), 1, membership)


def test_each_check_by_what_the_state_has() -> None:
    def state(membership: str | None) -> StateMap:
        key = ("m.room.member", str(BOB))
        return immutables.Map({} if membership is None else {key: ref(membership)})

    needless = {"joins": {"join"}, "leaves": {"leave"}}
    refused: dict[str, set[str | None]] = {
        "leaves": {"ban"},
        "kicks": {None, "leave", "ban"},
        "unbans": {None, "join", "invite", "knock", "leave"},
        "stays": {None, "invite", "knock", "leave", "ban"},
    }
    for name in ("joins", "leaves", "kicks", "unbans", "stays"):
        check = getattr(membership_checks, name)(BOB)
        for membership in (None, "join", "invite", "knock", "leave", "ban"):
            if membership in refused.get(name, ()):
                with pytest.raises(MatrixError):
                    check(state(membership))
            else:
                is_needless = membership in needless.get(name, ())
                assert (check(state(membership)) is not None) is is_needless, (name, membership)
    check = membership_checks.replaces(BOB, EventId("$e"))
    assert check(state("join")) is None
    with pytest.raises(MatrixError):
        check(state(None))
    with pytest.raises(MatrixError):
        membership_checks.replaces(BOB, EventId("$other"))(state("join"))
