"""`freehold-chat` from end to end, over HTTP on the loopback address."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from e2ee.cli import main
from e2ee.client import Client
from e2ee.limits import CLI_SYNC_ROUNDS_MAX, MESSAGE_TIME_MS_MAX
from e2ee.syncing import SyncSummary
from tests.e2ee.fake_homeserver import FakeHomeserver
from tests.e2ee.loopback_homeserver import served


class Terminal:
    """Runs commands for several people."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.folder = folder
        self.base_url = base_url

    async def run(self, who: str, *arguments: str, typed: str = "", status: int = 0) -> str:
        """Returns the output of a command; its exit status must be as given."""
        options = ["--profile", str(self.folder / who), "--homeserver", self.base_url]

        def invoke() -> Result:
            return CliRunner().invoke(main, [*options, *arguments], input=typed)

        result = await asyncio.to_thread(invoke)
        assert result.exit_code == status, result.output
        return result.output


@pytest.fixture
async def terminal(server: FakeHomeserver, tmp_path: Path) -> AsyncIterator[Terminal]:
    """Yields terminals of people on one homeserver."""
    async with served(server) as base_url:
        yield Terminal(tmp_path, base_url)


async def test_two_people_talk_from_their_terminals(
    terminal: Terminal, server: FakeHomeserver
) -> None:
    """Register, create, invite, join, send, tail, rooms, whoami, logout."""
    for name in ("alice", "bob"):
        said = await terminal.run(name, "register", name, typed="pw\npw\n")
        assert f"registered @{name}:hs.test" in said
    created = await terminal.run("alice", "create", "Talk", "--version", "12")
    room_id = created.strip()
    await terminal.run("alice", "invite", room_id, "@bob:hs.test")
    assert "invited by @alice:hs.test" in await terminal.run("bob", "rooms")
    assert (await terminal.run("bob", "join", room_id)).strip() == room_id
    await terminal.run("alice", "send", room_id, "hello bob")
    await terminal.run("bob", "send", room_id, typed="hello\nalice\n")
    for name in ("alice", "bob"):
        shown = await terminal.run(name, "tail", room_id)
        assert "@alice:hs.test  hello bob" in shown
        assert "@bob:hs.test  hello\n    alice" in shown
    listed = await terminal.run("bob", "rooms")
    assert f"{room_id}  Talk  2 members  encrypted" in listed
    assert "fingerprint" in await terminal.run("bob", "whoami")
    assert "hello" not in repr([call.body for _, call in server.calls])
    await terminal.run("bob", "logout")
    assert "not logged in" in await terminal.run("bob", "whoami", status=1)


async def test_profiles_are_for_their_owner_only(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folder 0700, files 0600; the password comes from the environment too, never shown."""
    monkeypatch.setenv("FREEHOLD_CHAT_PASSWORD", "sesame")
    said = await terminal.run("alice", "register", "alice")
    assert "sesame" not in said
    folder = tmp_path / "alice"
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("key", "store"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert b"sesame" not in b"".join(path.read_bytes() for path in folder.iterdir())


async def test_errors_say_what_to_do(terminal: Terminal, tmp_path: Path) -> None:
    """One line each, no traceback."""
    assert "freehold-chat login" in await terminal.run("nobody", "rooms", status=1)
    await terminal.run("alice", "register", "alice", typed="pw\npw\n")
    taken = await terminal.run("other", "register", "alice", typed="pw\npw\n", status=1)
    assert "choose another name" in taken
    wrong = await terminal.run("second", "login", "alice", typed="wrong\n", status=1)
    assert "check the name, the password" in wrong
    assert "logged in as" in await terminal.run("second", "login", "alice", typed="pw\n")
    again = await terminal.run("second", "login", "alice", typed="pw\n", status=1)
    assert "restore" in again
    assert "join it first" in await terminal.run("alice", "send", "!x:hs.test", "hi", status=1)
    assert "join it first" in await terminal.run("alice", "tail", "!x:hs.test", status=1)
    (tmp_path / "second" / "key").write_text("00")
    assert "damaged" in await terminal.run("second", "whoami", status=1)
    (tmp_path / "second" / "key").write_text("00" * 32)
    assert "can't be opened" in await terminal.run("second", "whoami", status=1)
    terminal.base_url = "http://127.0.0.1:1"
    unreachable = await terminal.run("third", "login", "alice", typed="pw\n", status=1)
    assert "can't be reached" in unreachable
    terminal.base_url = ""
    assert "--homeserver" in await terminal.run("fourth", "login", "alice", typed="x\n", status=1)


async def test_a_message_cant_drive_the_terminal(
    terminal: Terminal, server: FakeHomeserver
) -> None:
    """Escape sequences from others are shown as replacement characters."""
    await terminal.run("alice", "register", "alice", typed="pw\npw\n")
    room_id = (await terminal.run("alice", "create", "Room", "--unencrypted")).strip()
    content = {"msgtype": "m.text", "body": "\x1b]0;owned\x07red"}
    event = {"type": "m.room.message", "sender": "@m:hs.test", "content": content}
    server.append(room_id, event | {"origin_server_ts": MESSAGE_TIME_MS_MAX})
    server.append(room_id, event | {"origin_server_ts": MESSAGE_TIME_MS_MAX - 1})
    shown = await terminal.run("alice", "tail", room_id)
    assert "\x1b" not in shown
    assert "red (not encrypted)" in shown
    assert "1970-01-01 00:00" in shown, "an implausible time isn't believed"
    assert "2099-12-31 23:59" in shown


async def test_a_command_catches_up_in_so_many_syncs(
    terminal: Terminal, server: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it shows what it has: messages may come faster than they are read."""
    await terminal.run("alice", "register", "alice", typed="pw\npw\n")
    room_id = (await terminal.run("alice", "create", "Room", "--unencrypted")).strip()
    sync_once, syncs = Client.sync_once, 0

    async def busy(self: Client, timeout_ms: int = 0) -> SyncSummary:
        nonlocal syncs
        syncs += 1
        event = {"type": "m.room.message", "sender": "@m:hs.test", "content": {"body": "x"}}
        server.append(room_id, event)
        return await sync_once(self, timeout_ms)

    monkeypatch.setattr(Client, "sync_once", busy)
    await terminal.run("alice", "tail", room_id)
    assert syncs == CLI_SYNC_ROUNDS_MAX
