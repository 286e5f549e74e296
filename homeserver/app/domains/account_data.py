"""Creates the service and endpoints of account data, and the endpoints of push rules, which are a
part of it."""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.api.account_data.account_data import AccountDataApi
from homeserver.api.http.routes import Route
from homeserver.api.push.push_rules import PushRulesApi
from homeserver.app.engine import Engine
from homeserver.services.account_data.account_data import AccountDataService
from homeserver.services.push.push_rules import PushRules
from homeserver.storage.database import Database


def make_account_data(engine: Engine, database: Database) -> AccountDataService:
    """Creates the service."""
    return AccountDataService(database=database, committer=engine.committer, push_rules=PushRules())


def account_data_routes(service: AccountDataService) -> list[Sequence[Route]]:
    """Returns the endpoints."""
    return [AccountDataApi(service).routes(), PushRulesApi(PushRules()).routes()]
