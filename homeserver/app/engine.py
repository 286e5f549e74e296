"""Creates the room engine over a database."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from federation.events.ids import ServerName
from federation.events.signing import SigningKey
from federation.ports import Clock, Metrics, PolicySigner
from homeserver.engine.event_store import EngineEventStore
from homeserver.engine.followers.fanout import Fanout
from homeserver.engine.followers.memberships import Memberships
from homeserver.engine.local.head_merges import HeadMerges
from homeserver.engine.local.policy_signer import EventSigner, NoPolicyServer
from homeserver.engine.local.stager import Signer, Stager
from homeserver.engine.local.writer import Writer
from homeserver.engine.log.committer import Committer
from homeserver.engine.log.transactions import Transactions
from homeserver.engine.remote.remote_event_writer import RemoteEventWriter
from homeserver.engine.rooms.reader import Reader
from homeserver.engine.rooms.redactions import Redactions
from homeserver.engine.rooms.resolver import StateResolver
from homeserver.engine.rooms.rooms import Rooms
from homeserver.engine.store import EngineStore
from homeserver.metrics import MetricsStore
from homeserver.storage.database import Database
from homeserver.storage.engine_store import PostgresStore


@dataclass(frozen=True, slots=True)
class Engine:
    """The room engine's parts, and the database that it shares with the services."""

    database: Database
    store: EngineStore
    committer: Committer
    rooms: Rooms
    writer: Writer
    remote_event_writer: RemoteEventWriter
    reader: Reader
    memberships: Memberships
    fanout: Fanout
    transactions: Transactions
    events: EngineEventStore
    head_merges: HeadMerges


RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class RoomEngine:
    """The room engine's parts, over any store."""

    committer: Committer
    rooms: Rooms
    writer: Writer
    remote_event_writer: RemoteEventWriter
    reader: Reader
    memberships: Memberships
    fanout: Fanout
    transactions: Transactions
    events: EngineEventStore
    head_merges: HeadMerges


async def make_engine(
    database: Database,
    server_name: ServerName,
    key: SigningKey,
    clock: Clock,
    *,
    policies: PolicySigner | None = None,
    metrics: Metrics | None = None,
) -> Engine:
    """Creates the engine over PostgreSQL. *Precondition:* the schema is up to date."""
    store = PostgresStore(database)
    parts = await build_engine(store, server_name, key, clock, policies=policies, metrics=metrics)
    return Engine(
        database,
        store,
        parts.committer,
        parts.rooms,
        parts.writer,
        parts.remote_event_writer,
        parts.reader,
        parts.memberships,
        parts.fanout,
        parts.transactions,
        parts.events,
        parts.head_merges,
    )


async def build_engine(
    store: EngineStore,
    server_name: ServerName,
    key: SigningKey,
    clock: Clock,
    *,
    policies: PolicySigner | None = None,
    random_bytes: RandomBytes = os.urandom,
    metrics: Metrics | None = None,
) -> RoomEngine:
    """Takes over the log and creates the engine on it. Without `policies` no user can send in rooms
    that use a policy server; without `metrics` it has a registry of its own."""
    metrics = metrics or MetricsStore()
    owned = await store.log.take_over(random_bytes(8).hex())
    committer = Committer(store, owned)
    rooms = Rooms(store, server_name)
    memberships = Memberships(store, committer, server_name)
    resolver = StateResolver(store, rooms)
    transactions = Transactions(store)
    stager = Stager(
        rooms,
        resolver,
        Redactions(store, rooms),
        take_row_id=committer.numbers.take,
        signer=Signer(server_name, key),
        clock=clock,
        metrics=metrics,
        random_bytes=random_bytes,
    )
    event_signer = EventSigner(rooms, stager, policies or NoPolicyServer())
    writer = Writer(
        rooms,
        committer,
        stager=stager,
        event_signer=event_signer,
        transactions=transactions,
        server_name=server_name,
    )
    remote_event_writer = RemoteEventWriter(
        store,
        rooms,
        committer,
        writer=writer,
        resolver=resolver,
        server_name=server_name,
        forget_user=memberships.drop,
        metrics=metrics,
    )
    return RoomEngine(
        committer,
        rooms,
        writer,
        remote_event_writer,
        Reader(store, rooms),
        memberships,
        Fanout(rooms, memberships, server_name),
        transactions,
        EngineEventStore(
            store,
            rooms,
            remote_event_writer,
            event_signer=event_signer,
            resolver=resolver,
            committer=committer,
        ),
        HeadMerges(rooms, writer, committer),
    )
