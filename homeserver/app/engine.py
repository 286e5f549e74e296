"""Creates the room engine over a store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from federation.ports import PolicySigner
from homeserver.app.context import ServerContext
from homeserver.engine.event_store import EngineEventStore
from homeserver.engine.followers.fanout import Fanout
from homeserver.engine.followers.head_merges import HeadMerges
from homeserver.engine.followers.memberships import Memberships
from homeserver.engine.local.policy_signer import EventSigner
from homeserver.engine.local.stager import Stager
from homeserver.engine.local.writer import Writer
from homeserver.engine.log.committer import Committer
from homeserver.engine.log.transactions import Transactions
from homeserver.engine.remote.remote_event_writer import RemoteEventWriter
from homeserver.engine.rooms.reader import Reader
from homeserver.engine.rooms.redactions import Redactions
from homeserver.engine.rooms.resolver import StateResolver
from homeserver.engine.rooms.rooms import Rooms
from homeserver.engine.store import EngineStore
from homeserver.services.rooms.room_access import RoomContext


@dataclass(frozen=True, slots=True)
class Engine:
    """The room engine's parts, with what they stand on."""

    context: ServerContext
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

    @property
    def room_context(self) -> RoomContext:
        """The part that services about rooms use."""
        return RoomContext(self.rooms, self.memberships, self.writer)


async def make_engine(
    context: ServerContext,
    store: EngineStore,
    *,
    policies: PolicySigner,
    on_lost: Callable[[], None] | None = None,
) -> Engine:
    """Takes over the log and creates the engine on it; `on_lost` is called when another process
    takes the log over. *Precondition:* the schema of the store is up to date."""
    owned = await store.log.take_over(context.random_bytes(8).hex())
    committer = Committer(store, owned, on_lost=on_lost)
    rooms = Rooms(store, context.name)
    memberships = Memberships(store, committer, context.name)
    resolver = StateResolver(store, rooms)
    transactions = Transactions(store)
    stager = Stager(
        rooms,
        resolver,
        Redactions(store, rooms),
        take_row_id=committer.numbers.take,
        signer=context.signer,
        clock=context.clock,
        metrics=context.metrics,
        random_bytes=context.random_bytes,
    )
    event_signer = EventSigner(rooms, stager, policies)
    writer = Writer(
        rooms,
        committer,
        stager=stager,
        event_signer=event_signer,
        transactions=transactions,
        server_name=context.name,
    )
    remote_event_writer = RemoteEventWriter(
        store,
        rooms,
        committer,
        writer=writer,
        resolver=resolver,
        server_name=context.name,
        forget_user=memberships.drop,
        metrics=context.metrics,
    )
    events = EngineEventStore(
        store,
        rooms,
        remote_event_writer,
        event_signer=event_signer,
        resolver=resolver,
        committer=committer,
    )
    return Engine(
        context=context,
        store=store,
        committer=committer,
        rooms=rooms,
        writer=writer,
        remote_event_writer=remote_event_writer,
        reader=Reader(store, rooms),
        memberships=memberships,
        fanout=Fanout(rooms, memberships, context.name),
        transactions=transactions,
        events=events,
        head_merges=HeadMerges(rooms, writer, committer),
    )
