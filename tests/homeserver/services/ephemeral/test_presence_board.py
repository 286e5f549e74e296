"""The board: changes in their order, each user once, and a bound for everything."""

import pytest

from federation.events.ids import UserId
from homeserver import limits
from homeserver.metrics import ServerMetrics
from homeserver.rules.ephemeral.presence import Shown
from homeserver.services.ephemeral.presence_board import PresenceBoard
from tests.homeserver.device_world import ALICE, ANNA, BOB, HERE

ONLINE, AWAY, OFFLINE = Shown("online"), Shown("unavailable"), Shown()


@pytest.fixture
def board() -> PresenceBoard:
    return PresenceBoard(HERE, 7, ServerMetrics())


def there(name: str, server: str = "there.test") -> UserId:
    return UserId(f"@{name}:{server}")


def users(board: PresenceBoard, after: int = 0) -> list[UserId]:
    return [record.user_id for record in board.after(after)]


def test_changes_come_in_order_each_user_once(board: PresenceBoard) -> None:
    for user, shown in ((ALICE, ONLINE), (BOB, ONLINE), (ALICE, AWAY), (ANNA, AWAY)):
        assert board.publish(user, shown, 1.0)
    assert users(board) == [BOB, ALICE, ANNA]
    middle = board.get(ALICE)
    assert middle is not None
    assert users(board, middle.number) == [ANNA]
    assert users(board, board.count) == []


def test_what_is_no_change_is_not_told(board: PresenceBoard) -> None:
    told: list[UserId] = []
    board.subscribe(lambda record: told.append(record.user_id))
    assert not board.publish(ALICE, OFFLINE, None)
    assert board.get(ALICE) is None
    assert board.publish(ALICE, ONLINE, 1.0)
    assert not board.publish(ALICE, ONLINE, 2.0)
    record = board.get(ALICE)
    assert record is not None
    assert record.active_s == 2.0
    assert told == [ALICE]
    board.renew(record)
    assert told == [ALICE, ALICE]


def test_one_server_cant_take_all_places(
    board: PresenceBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.limits.PRESENCE_REMOTE_USERS_PER_SERVER", 2)
    for name in ("a", "b"):
        assert board.has_place(there(name))
        board.publish(there(name), ONLINE, 1.0)
    assert not board.has_place(there("c"))
    assert board.has_place(there("a"))
    assert board.has_place(there("c", "elsewhere.test"))
    assert limits.PRESENCE_REMOTE_USERS_PER_SERVER < limits.PRESENCE_REMOTE_USERS
    board.drop(there("a"))
    assert board.has_place(there("c"))


@pytest.mark.parametrize(
    ("bound", "server"),
    [("PRESENCE_REMOTE_USERS", "there.test"), ("PRESENCE_LOCAL_USERS", HERE)],
)
def test_who_went_offline_first_makes_place(
    board: PresenceBoard, monkeypatch: pytest.MonkeyPatch, bound: str, server: str
) -> None:
    monkeypatch.setattr(f"homeserver.limits.{bound}", 3)
    dropped: list[UserId] = []
    board.on_drop(dropped.append)
    for name in ("a", "b", "c"):
        assert board.has_place(there(name, server))
        board.publish(there(name, server), ONLINE, 1.0)
    assert not board.has_place(there("d", server)), "all are there"
    for name in ("b", "a"):
        board.publish(there(name, server), OFFLINE, 1.0)
    end = board.count
    assert board.knows_since(0)
    assert board.has_place(there("d", server))
    assert dropped == [there("b", server)]
    assert not board.knows_since(0), "a reader may think that the dropped one is there"
    assert board.knows_since(end)
    other = ALICE if server != HERE else BOB
    assert board.has_place(other), "the kinds have places of their own"


def test_a_count_that_isnt_yet_isnt_known(board: PresenceBoard) -> None:
    assert board.knows_since(0)
    assert not board.knows_since(1)


def test_the_metrics_count_users_and_changes() -> None:
    metrics = ServerMetrics()
    board = PresenceBoard(HERE, 7, metrics)
    board.publish(ALICE, ONLINE, 1.0)
    board.publish(BOB, ONLINE, 1.0)
    board.publish(BOB, AWAY, 1.0)
    text = metrics.text().decode()
    assert 'freehold_presence_users{of="ours"} 1.0' in text
    assert 'freehold_presence_users{of="others"} 1.0' in text
    assert 'freehold_presence_changes_total{of="ours"} 1.0' in text
    assert 'freehold_presence_changes_total{of="others"} 2.0' in text
