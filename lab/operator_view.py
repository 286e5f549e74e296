"""An operator's view of a server: its database, table by table, raw files, logs, other files.

Rules:
1. Everything is read as an operator could: a superuser's session, and the files on the disk.
2. Tables are read whole, by binary COPY, so that values appear as they are (`bytea` unescaped, long
   values unpacked), whatever tables there are.
3. Before the raw files are read, a checkpoint has them written out; the log (WAL) is among them.
"""

import asyncio
import re
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from lab.canary import Searcher, Tally
from lab.database import CONNECT_TIMEOUT_S, LabDatabase
from lab.topology import ServerPlan, Topology

TABLES = """
    SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
       AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
     ORDER BY 1
"""
CIPHERTEXT = re.compile(rb'"ciphertext"\s*:\s*"([A-Za-z0-9+/=_-]{16,})"')
EXCERPT_LETTERS = 48


@dataclass(slots=True)
class ServerView:
    """The view of one operator: a tally for each kind of place."""

    server: str
    tables: Tally = field(default_factory=Tally)
    logs: Tally = field(default_factory=Tally)
    files: Tally = field(default_factory=Tally)
    table_count: int = 0
    ciphertext_count: int = 0
    ciphertext_excerpt: str = ""

    def total(self) -> Tally:
        """Returns all places together."""
        together = Tally()
        for tally in (self.tables, self.logs, self.files):
            together.merge(tally)
        return together


@dataclass(slots=True)
class OperatorView:
    """The view of all operators of a lab; `raw` is None where raw files are out of reach."""

    servers: list[ServerView]
    raw: Tally | None

    def found(self, kind: str) -> int:
        """Returns the number of canaries of a kind found anywhere."""
        total = sum(view.total().found(kind) for view in self.servers)
        return total + (self.raw.found(kind) if self.raw is not None else 0)

    def bytes_searched(self) -> int:
        """Returns the number of bytes searched."""
        total = sum(view.total().bytes_searched for view in self.servers)
        return total + (self.raw.bytes_searched if self.raw is not None else 0)

    def places(self, kind: str) -> list[str]:
        """Returns the places where canaries of a kind were found."""
        tallies = [view.total() for view in self.servers]
        tallies += [self.raw] if self.raw is not None else []
        return sorted({place for tally in tallies for place in tally.places.get(kind, set())})

    def blind_spots(self, control: str) -> list[str]:
        """Returns the places whose search did not find the control, so that it proves nothing."""
        views = self.servers
        spots = [f"{view.server}'s tables" for view in views if not view.tables.found(control)]
        if self.raw is not None and not self.raw.found(control):
            spots.append("PostgreSQL's raw files")
        return spots


async def look(topology: Topology, database: LabDatabase, searcher: Searcher) -> OperatorView:
    """Searches everything the lab's operators hold, and returns what was found."""
    views = []
    for server in topology.servers:
        view = ServerView(server.name)
        await search_tables(database.operator_address(server.database_name), searcher, view)
        await asyncio.to_thread(search_server_files, server, searcher, view)
        views.append(view)
    raw: Tally | None = None
    folder = database.raw_folder()
    if folder is not None:
        await checkpoint(database.operator_address("postgres"))
        raw = Tally()
        await asyncio.to_thread(searcher.search_folder, folder, raw)
        log_path = database.log_path()
        if log_path is not None:
            await asyncio.to_thread(searcher.search_file, log_path, raw)
    return OperatorView(views, raw)


async def search_tables(address: str, searcher: Searcher, view: ServerView) -> None:
    """Searches every table of a database, and keeps an excerpt of a stored ciphertext."""
    connection = await asyncpg.connect(address, timeout=CONNECT_TIMEOUT_S)
    try:
        for (table,) in await connection.fetch(TABLES):
            content = bytearray()

            async def keep(piece: bytes, into: bytearray = content) -> None:
                into += piece

            await connection.copy_from_query(f"SELECT * FROM {table}", output=keep, format="binary")
            view.table_count += 1
            searcher.search_bytes(bytes(content), f"{view.server}: table {table}", view.tables)
            found = CIPHERTEXT.findall(content)
            view.ciphertext_count += len(found)
            if found and not view.ciphertext_excerpt:
                view.ciphertext_excerpt = found[-1][:EXCERPT_LETTERS].decode()
    finally:
        await connection.close()


def search_server_files(server: ServerPlan, searcher: Searcher, view: ServerView) -> None:
    """Searches a server's logs and every other file in its folder."""
    for path in sorted(server.folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            searcher.search_file(path, view.logs if is_log(path) else view.files)


def is_log(path: Path) -> bool:
    """Returns whether a file is a log, rotated ones included."""
    return ".log" in path.name


async def checkpoint(address: str) -> None:
    """Makes PostgreSQL write all it holds in memory to its files."""
    connection = await asyncpg.connect(address, timeout=CONNECT_TIMEOUT_S)
    try:
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
