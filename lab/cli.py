"""The lab's commands: `up N`, `down`, and `story`, which is `make lab`.

Exit status: 0 when all went well, 1 when something did not; each error says what to do.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from lab.canary import CanaryKind, Searcher, new_kind
from lab.certificates import client_context
from lab.database import EmbeddedDatabase, GivenDatabase, LabDatabase
from lab.operator_view import look
from lab.people import People
from lab.report import PASSWORD, show_log_ins, show_operators, show_story, verdict
from lab.running import Lab, LabError, end_running_lab
from lab.story import Story, StoryFailed
from lab.topology import SERVERS_MAX, server_names

DEFAULT_HOME = Path(".lab")
STORY_SERVERS = 3
WIDTH_WITHOUT_TERMINAL = 120

data_option = click.option(
    "--data",
    "home",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_HOME,
    show_default=True,
    help="The lab's folder: keys, certificates, logs, database.",
)
database_option = click.option(
    "--database",
    "address",
    default="",
    help="A PostgreSQL 14+ to use instead of the embedded one: postgresql://…, of a role that may "
    "make databases.",
)
binaries_option = click.option(
    "--postgres-bin",
    "binaries",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=None,
    help="The folder of PostgreSQL's programs, instead of the package's.",
)


@click.group()
def main() -> None:
    """Several Freehold servers on this machine, federating over TLS that is verified."""
    # A proxy of the environment must not get requests to this machine.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost")))


@main.command()
@click.argument("count", type=click.IntRange(1, SERVERS_MAX), default=STORY_SERVERS)
@data_option
@database_option
@binaries_option
def up(count: int, home: Path, address: str, binaries: Path | None) -> None:
    """Start COUNT servers, hs1 to hsN, and keep them up until Ctrl-C or `down`."""
    console = make_console()
    lab = Lab(
        home, server_names(count), choose_database(home, address, binaries), progress=tell(console)
    )
    run(console, stay_up(console, lab))


@main.command()
@data_option
def down(home: Path) -> None:
    """End the lab that runs in a folder."""
    console = make_console()
    try:
        ended = end_running_lab(home.absolute())
    except LabError as problem:
        fail(console, str(problem))
    console.print("The lab has ended." if ended else f"No lab runs in {home}.")


@main.command()
@data_option
@database_option
@binaries_option
@click.option("--once", is_flag=True, help="End after the story, with status 0 or 1.")
def story(home: Path, address: str, binaries: Path | None, once: bool) -> None:
    """Three servers, one encrypted room that none of them can read; then stay up."""
    console = make_console()
    lab = Lab(
        home,
        server_names(STORY_SERVERS),
        choose_database(home, address, binaries),
        progress=tell(console),
    )
    run(console, tell_story(console, lab, once=once))


def make_console() -> Console:
    """Returns the console, with the loggers' warnings going to it."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=WIDTH_WITHOUT_TERMINAL)
    handler = RichHandler(console=console, show_time=False, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    return console


def tell(console: Console) -> Callable[[str], None]:
    """Returns a function that shows a step of the work."""
    return lambda text: console.print(f"[dim]·[/dim] {escape(text)} …")


def choose_database(home: Path, address: str, binaries: Path | None) -> LabDatabase:
    """Returns the given PostgreSQL, or the embedded one of the lab's folder."""
    if address:
        return GivenDatabase(address)
    return EmbeddedDatabase(home.absolute() / "postgres", binaries)


def fail(console: Console, text: str) -> None:
    """Prints an error and ends with status 1."""
    console.print(f"[bold red]The lab failed.[/bold red] {escape(text)}")
    sys.exit(1)


def run(console: Console, work: Coroutine[None, None, bool]) -> None:
    """Runs a command to its end; SIGINT and SIGTERM cancel it, so that all is ended in order."""
    try:
        well = asyncio.run(with_signals(work))
    except (LabError, StoryFailed) as problem:
        fail(console, str(problem))
    except asyncio.CancelledError:
        console.print("The lab has ended, no process stays.")
        sys.exit(0)
    sys.exit(0 if well else 1)


async def with_signals(work: Coroutine[None, None, bool]) -> bool:
    """Awaits work in this task, which the signals that end a process cancel."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    return await work


async def stay_up(console: Console, lab: Lab) -> bool:
    """Starts the lab and stays until cancelled."""
    async with lab:
        console.print(f"[bold]{len(lab.topology.servers)} servers[/bold] {answer_time(lab)}")
        show_log_ins(console, lab.topology, [])
        console.print("Ctrl-C ends it.")
        await lab.watch()
    return True


async def tell_story(console: Console, lab: Lab, *, once: bool) -> bool:
    """Plays the story, searches the operators' places, prints both, and stays unless `once`."""
    secret, control = new_kind("encrypted"), new_kind("control")
    async with lab:
        console.print(f"[bold]hs1, hs2 and hs3[/bold] {answer_time(lab)}")
        async with everybody(lab) as people:
            names = [server.name for server in lab.topology.servers]
            tale = Story(people, names, secret=secret, control=control, progress=tell(console))
            record = await tale.play()
            console.print()
            show_story(console, record)
        tell(console)("searching what the operators hold")
        passwords = [CanaryKind(PASSWORD, account.password) for account in people.log_ins()]
        searcher = Searcher(secret, control, *passwords)
        view = await look(lab.topology, lab.database, searcher)
        show_operators(console, view, secret, control)
        problems = verdict(view, secret, control)
        for problem in problems:
            console.print(f"[bold red]✗[/bold red] {escape(problem)}")
        if not problems:
            console.print(
                "[bold green]✓[/bold green] everyone read what was for them, and no operator can "
                "read a word of it"
            )
        if once:
            return not problems
        show_log_ins(console, lab.topology, people.log_ins())
        console.print("Ctrl-C ends it; what was said is kept.")
        await lab.watch()
    return True


def answer_time(lab: Lab) -> str:
    """Returns the duration of the start, as text."""
    return f"answer after {lab.start_seconds:.1f} s"


@contextlib.asynccontextmanager
async def everybody(lab: Lab) -> AsyncIterator[People]:
    """Yields the people of a story, who log out at its end, whatever happens."""
    people = People(lab.topology, client_context(lab.authority_path))
    try:
        yield people
    finally:
        await people.all_leave()


if __name__ == "__main__":
    main()
