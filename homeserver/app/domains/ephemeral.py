"""Creates the services and endpoints of receipts and typing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.api.ephemeral.receipts import ReceiptsApi
from homeserver.api.ephemeral.typing import TypingApi
from homeserver.api.http.routes import Route
from homeserver.app.engine import Engine
from homeserver.services.ephemeral.receipts import EventOrders, Receipts
from homeserver.services.ephemeral.typing import Typing, new_boot
from homeserver.services.ephemeral.typing_audience import Forward, TypingAudience
from homeserver.storage.database import Database


@dataclass(frozen=True, slots=True)
class EphemeralServices:
    """Receipts and typing."""

    receipts: Receipts
    typing: Typing
    typing_audience: TypingAudience


def make_ephemeral(engine: Engine, database: Database, forward: Forward) -> EphemeralServices:
    """Creates the services, subscribed to the log; `forward` sends EDUs to other servers."""
    committer, rooms, clock = engine.committer, engine.rooms, engine.context.clock
    audience = TypingAudience(rooms, engine.fanout, forward)
    typing = Typing(
        rooms=rooms,
        clock=clock,
        boot=new_boot(engine.context.random_bytes),
        wake_room=audience.wake,
        announce=audience.announce,
    )
    receipts = Receipts(
        database=database,
        committer=committer,
        rooms=rooms,
        clock=clock,
        position=committer.position,
        order_of=EventOrders(rooms, engine.reader).order_of,
    )
    for follower in (receipts, typing):
        committer.subscribe(follower.on_commit)
    return EphemeralServices(receipts, typing, audience)


def ephemeral_routes(services: EphemeralServices) -> list[Sequence[Route]]:
    """Returns the endpoints."""
    return [ReceiptsApi(services.receipts).routes(), TypingApi(services.typing).routes()]
