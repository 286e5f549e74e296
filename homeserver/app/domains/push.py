"""Creates the services and endpoints of push rules, unread notifications and account data, which
push rules are a part of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver import limits
from homeserver.api.account_data.account_data import AccountDataApi
from homeserver.api.http.routes import Route
from homeserver.api.push.push_rules import PushRulesApi
from homeserver.app.engine import Engine
from homeserver.services.account_data.account_data import AccountDataService
from homeserver.services.push.audiences import Audiences
from homeserver.services.push.counted_entries import CountedRooms
from homeserver.services.push.evaluator import Evaluator
from homeserver.services.push.pruning import NotificationPruning
from homeserver.services.push.push_rules import PushRules
from homeserver.services.push.replays import LogReplay
from homeserver.services.push.unread_counts import UnreadCounts
from homeserver.storage.database import Database


@dataclass(frozen=True, slots=True)
class PushServices:
    """Push rules, their evaluation for the events of the log, counts, and the deletion of what is
    too old for them."""

    rules: PushRules
    evaluator: Evaluator
    counts: UnreadCounts
    pruning: NotificationPruning


def make_push(
    engine: Engine, database: Database, *, kept: int = limits.PUSH_KEPT_DEFAULT
) -> PushServices:
    """Creates the services; the counts follow the log. `kept` are the events of each room that
    notified somebody."""
    rooms, name = engine.rooms, engine.context.name
    evaluator = Evaluator(Audiences(database, rooms, name), rooms, name)
    counts = UnreadCounts(
        database,
        CountedRooms(
            rooms,
            engine.reader,
            engine.memberships,
            LogReplay(database, rooms, engine.store),
            name,
            engine.committer.position,
        ),
        evaluator,
        sleep=engine.context.clock.sleep,
    )
    engine.committer.subscribe(counts.on_commit)
    rooms.redaction_hearers.append(counts.on_redacted)
    rules = PushRules(database, engine.committer, counts.settled)
    pruning = NotificationPruning(database, name, engine.context.clock, kept=kept)
    return PushServices(rules, evaluator, counts, pruning)


def push_routes(services: PushServices) -> list[Sequence[Route]]:
    """Returns the endpoints."""
    return [PushRulesApi(services.rules).routes()]


def make_account_data(
    engine: Engine, database: Database, push_rules: PushRules
) -> AccountDataService:
    """Creates the service of account data."""
    return AccountDataService(database=database, committer=engine.committer, push_rules=push_rules)


def account_data_routes(service: AccountDataService) -> list[Sequence[Route]]:
    """Returns the endpoints of account data."""
    return [AccountDataApi(service).routes()]
