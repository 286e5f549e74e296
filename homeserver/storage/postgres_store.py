"""The tables that the room engine uses (`homeserver.engine.store`)."""

from __future__ import annotations

from homeserver.storage.accounts.accounts import AccountTable
from homeserver.storage.database import Database
from homeserver.storage.federation.owed import OwedData
from homeserver.storage.log_writer import LogWriter
from homeserver.storage.rooms.memberships import MembershipTable
from homeserver.storage.rooms.rooms import RoomTable
from homeserver.storage.rooms.snapshots import SnapshotTable
from homeserver.storage.rooms.state_changes import StateChangeTable
from homeserver.storage.timeline.events import EventTable
from homeserver.storage.timeline.fetched_history import FetchedHistory
from homeserver.storage.timeline.gaps import GapTable
from homeserver.storage.timeline.rechecks import RecheckTable
from homeserver.storage.timeline.redactions import PendingRedactionTable
from homeserver.storage.timeline.transactions import TransactionTable


class PostgresStore:
    """`engine.store.EngineStore`."""

    def __init__(self, database: Database) -> None:
        self.events = EventTable(database)
        self.history = FetchedHistory(database)
        self.gaps = GapTable(database)
        self.redactions = PendingRedactionTable(database)
        self.rechecks = RecheckTable(database)
        self.rooms = RoomTable(database)
        self.snapshots = SnapshotTable(database)
        self.state_changes = StateChangeTable(database)
        self.memberships = MembershipTable(database)
        self.transactions = TransactionTable(database)
        self.owed = OwedData(database)
        self.erasures = AccountTable(database)
        self.log = LogWriter(database)
