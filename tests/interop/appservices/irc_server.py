"""An IRC server over real sockets, as far as a bridge and a person need one (RFC 2812)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

HOST = "irc.example"


@dataclass(eq=False)
class _Client:
    writer: asyncio.StreamWriter
    nick: str = "*"
    user: str = ""
    is_welcome: bool = False
    channels: set[str] = field(default_factory=set)

    @property
    def prefix(self) -> str:
        return f"{self.nick}!{self.user}@{HOST}"

    def send(self, line: str) -> None:
        self.writer.write(f"{line}\r\n".encode())

    def reply(self, code: str, text: str) -> None:
        self.send(f":{HOST} {code} {self.nick} {text}")


class IrcServer:
    """Clients and the channels that they are in."""

    def __init__(self) -> None:
        self._clients: set[_Client] = set()
        self.port = 0
        self._commands: dict[str, Callable[[_Client, list[str]], None]] = {
            "CAP": self._cap,
            "NICK": self._nick,
            "USER": self._user,
            "JOIN": self._join,
            "PRIVMSG": self._say,
            "PING": lambda client, words: client.send(f":{HOST} PONG {HOST} :{words[-1]}"),
            "MODE": lambda client, words: client.reply("324", f"{words[0]} +nt"),
            "WHO": lambda client, words: client.reply("315", f"{words[0]} :End of WHO"),
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection."""
        client = _Client(writer)
        self._clients.add(client)
        try:
            with suppress(ConnectionError):
                while line := await reader.readline():
                    self._take(client, line.decode().strip())
        finally:
            self._clients.discard(client)
            writer.close()

    def _take(self, client: _Client, line: str) -> None:
        head, colon, text = line.partition(" :")
        command, *words = head.split()
        known = self._commands.get(command.upper())
        if known is not None:
            known(client, [*words, text] if colon else words)

    def _cap(self, client: _Client, words: list[str]) -> None:
        if words[0] == "LS":
            client.send(f":{HOST} CAP * LS :")

    def _nick(self, client: _Client, words: list[str]) -> None:
        client.nick = words[0].lstrip(":")
        self._welcome(client)

    def _user(self, client: _Client, words: list[str]) -> None:
        client.user = words[0]
        self._welcome(client)

    def _welcome(self, client: _Client) -> None:
        if client.is_welcome or client.nick == "*" or not client.user:
            return
        client.is_welcome = True
        client.reply("001", f":Welcome {client.prefix}")
        client.reply("004", f"{HOST} 1 o o")
        client.reply("005", "CHANTYPES=# PREFIX=(ov)@+ :are supported")
        client.reply("422", ":No message of the day")

    def _members(self, channel: str) -> list[_Client]:
        return [client for client in self._clients if channel in client.channels]

    def _join(self, client: _Client, words: list[str]) -> None:
        channel = words[0]
        client.channels.add(channel)
        for member in self._members(channel):
            member.send(f":{client.prefix} JOIN {channel}")
        names = " ".join(member.nick for member in self._members(channel))
        client.reply("353", f"= {channel} :{names}")
        client.reply("366", f"{channel} :End of NAMES")

    def _say(self, client: _Client, words: list[str]) -> None:
        channel, text = words[0], words[-1]
        for member in self._members(channel):
            if member is not client:
                member.send(f":{client.prefix} PRIVMSG {channel} :{text}")


@asynccontextmanager
async def irc_server() -> AsyncIterator[IrcServer]:
    """Serves on a free port."""
    server = IrcServer()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
