"""The story as readable tables: the readers of each message, and the operators' view."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lab.canary import CanaryKind, Tally
from lab.operator_view import OperatorView
from lab.people import KeptAccount
from lab.story import Record, Said
from lab.topology import Topology

MIB = 1024 * 1024
PLACES_SHOWN = 8
PASSWORD = "password"  # the kind under which people's passwords are searched for
NAMES = ("alice", "bob", "carol", "mallory")


def verdict(view: OperatorView, secret: CanaryKind, control: CanaryKind) -> list[str]:
    """Returns the faults in the operators' views; empty if all is well."""
    problems = []
    found = view.found(secret.name)
    if found:
        places = "; ".join(view.places(secret.name)[:PLACES_SHOWN])
        problems.append(f"words of encrypted messages were found {found} times: {places}")
    if view.found(PASSWORD):
        problems.append(
            f"people's passwords were found: {'; '.join(view.places(PASSWORD)[:PLACES_SHOWN])}"
        )
    problems += [
        f"the search is blind: it did not find the control in {spot}"
        for spot in view.blind_spots(control.name)
    ]
    return problems


def show_story(console: Console, record: Record) -> None:
    """Prints each message with its sender, its readers, and the time that each took."""
    table = Table(title="Who said what, and who read it after how many seconds", title_style="bold")
    table.add_column("said by")
    table.add_column("words (the last one is a canary)", overflow="fold")
    for name in NAMES:
        table.add_column(name, justify="right")
    for said in record.said:
        table.add_row(said.sender, escape(words(said)), *(cell(said, name) for name in NAMES))
    console.print(table)
    for note in sorted({said.note for said in record.said if said.note}):
        console.print(f"  {note}", style="dim")
    console.print("  –: was not there and can't read it, checked", style="dim")
    sessions = len({said.session_id for said in record.said})
    console.print(
        f"  {len(record.said)} messages in {sessions} Megolm sessions, "
        f"the story took {record.seconds:.1f} s",
        style="dim",
    )


def words(said: Said) -> str:
    """Returns the text of a message, with the text before an edit."""
    if not said.edited_from:
        return said.body
    return f"{said.body} (edited, was: {said.edited_from})"


def cell(said: Said, name: str) -> str:
    """Returns the time that a person took to read a message, or that they can't."""
    if name in said.read_after_s:
        return f"{said.read_after_s[name]:.2f}"
    return "[green]–[/green]" if name in said.not_readable_by else ""


def show_operators(
    console: Console, view: OperatorView, secret: CanaryKind, control: CanaryKind
) -> None:
    """Prints what each operator holds and how often the canaries were found in it."""
    table = Table(
        title="What each operator can see: canary words found (encrypted / control)",
        title_style="bold",
    )
    for column in ("operator of", "tables", "logs", "other files"):
        table.add_column(column)
    table.add_column("ciphertexts", justify="right")
    table.add_column("one as it is stored", overflow="fold", min_width=16)
    for server in view.servers:
        table.add_row(
            server.server,
            f"{counts(server.tables, secret, control)}, {server.table_count} tables",
            counts(server.logs, secret, control),
            counts(server.files, secret, control),
            str(server.ciphertext_count),
            escape(server.ciphertext_excerpt) + "…" if server.ciphertext_excerpt else "(none)",
        )
    console.print(table)
    if view.raw is not None:
        console.print(
            f"  PostgreSQL's raw files of all servers, WAL included: "
            f"{counts(view.raw, secret, control)}, {view.raw.files} files"
        )
    else:
        console.print("  PostgreSQL's raw files are out of reach (a given database): not searched")
    console.print(f"  people's passwords, in all of these: found {view.found(PASSWORD)} times")
    console.print(
        f"  searched {size(view.bytes_searched())}, in plain, UTF-16, hex, base64 and "
        "further shapes; the control is a message in a room without encryption and must be found",
        style="dim",
    )


def counts(tally: Tally, secret: CanaryKind, control: CanaryKind) -> str:
    """Returns the hits of a place as text: encrypted ones in green if none."""
    hits = tally.found(secret.name)
    colour = "red" if hits else "green"
    return (
        f"[{colour}]{hits}[/{colour}] / {tally.found(control.name)} in {size(tally.bytes_searched)}"
    )


def size(count: int) -> str:
    """Returns a number of bytes for people."""
    return f"{count / MIB:.1f} MiB" if count >= MIB else f"{count / 1024:.0f} KiB"


def show_log_ins(console: Console, topology: Topology, accounts: Sequence[KeptAccount]) -> None:
    """Prints the addresses of the servers and the accounts for log-in."""
    table = Table(title="Point any Matrix client at it", title_style="bold")
    for column in ("server", "plain HTTP, on this machine", "TLS, by the lab's authority"):
        table.add_column(column)
    for server in topology.servers:
        table.add_row(server.name, server.http_url, server.tls_url)
    console.print(table)
    if accounts:
        people = Table(box=None)
        people.add_column("user")
        people.add_column("password")
        for account in accounts:
            people.add_row(f"@{account.localpart}:{account.server}", escape(account.password))
        console.print(people)
    console.print(f"  the lab's certificate authority: {topology.authority_folder / 'ca.crt'}")
    console.print(f"  logs: {topology.home / 'servers'}/*/freehold.log")
