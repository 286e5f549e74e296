"""Makes the room engine over a database."""

from __future__ import annotations

import os
from dataclasses import dataclass

from federation.events.ids import ServerName
from federation.events.signing import SigningKey
from federation.ports import Clock
from homeserver.engine.committer import Committer
from homeserver.engine.event_store import EngineEventStore
from homeserver.engine.fanout import Fanout
from homeserver.engine.memberships import Memberships
from homeserver.engine.reader import Reader
from homeserver.engine.residents import Residents
from homeserver.engine.resolution import Resolver
from homeserver.engine.rooms import Rooms
from homeserver.engine.stager import Signer, Stager
from homeserver.engine.transactions import Transactions
from homeserver.engine.writer import Writer
from homeserver.storage import logs
from homeserver.storage.database import Database


@dataclass(frozen=True, slots=True)
class Engine:
    """The room engine's parts."""

    database: Database
    committer: Committer
    rooms: Rooms
    writer: Writer
    residents: Residents
    reader: Reader
    memberships: Memberships
    fanout: Fanout
    transactions: Transactions
    events: EngineEventStore


async def make_engine(
    database: Database, server_name: ServerName, key: SigningKey, clock: Clock
) -> Engine:
    """Takes over the log and makes the engine on it. *Precondition:* the schema is up to date."""
    async with database.connection() as connection:
        owned = await logs.take_over(connection, os.urandom(8).hex())
    committer = Committer(database, owned)
    rooms = Rooms(database, server_name)
    memberships = Memberships(database, committer, server_name)
    resolver = Resolver(database, rooms)
    transactions = Transactions(database)
    writer = Writer(
        rooms,
        committer,
        stager=Stager(
            rooms,
            resolver,
            take_nid=committer.numbers.take,
            signer=Signer(server_name, key),
            clock=clock,
            random_bytes=os.urandom,
        ),
        transactions=transactions,
        server_name=server_name,
    )
    residents = Residents(
        database,
        rooms,
        committer,
        writer=writer,
        resolver=resolver,
        server_name=server_name,
        forget_user=memberships.drop,
    )
    return Engine(
        database,
        committer,
        rooms,
        writer,
        residents,
        Reader(database, rooms),
        memberships,
        Fanout(rooms, memberships, server_name),
        transactions,
        EngineEventStore(database, rooms, residents, resolver=resolver, committer=committer),
    )
