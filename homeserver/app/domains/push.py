"""Creates the services and endpoints of push."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.api.http.routes import Route
from homeserver.api.push.pushers import PushersApi
from homeserver.app.engine import Engine
from homeserver.services.push.pushers import Pushers
from homeserver.storage.database import Database


@dataclass(frozen=True, slots=True)
class PushServices:
    """Pushers."""

    pushers: Pushers


def make_push(engine: Engine, database: Database) -> PushServices:
    """Creates the services."""
    return PushServices(
        pushers=Pushers(database, engine.context.clock, committer=engine.committer)
    )


def push_routes(services: PushServices) -> list[Sequence[Route]]:
    """Returns the endpoints."""
    return [PushersApi(services.pushers).routes()]
