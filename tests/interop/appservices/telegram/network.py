"""A Telegram of the test's own, as a process in `.venv-bridges`: one port for the client of its
account (MTProto), one for the test (a line of JSON for each command, and one for its result).

Arguments: the two ports, the authorization key, and the picture of people (both hexadecimal).
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from contextlib import suppress
from typing import Any

from tests.interop.appservices.telegram.answers import answer
from tests.interop.appservices.telegram.mtproto import Connection, Refusal, types
from tests.interop.appservices.telegram.world import World

log = logging.getLogger("telegram")


class Network:
    """The world, and who is connected to it."""

    def __init__(self, key: bytes, picture: bytes) -> None:
        self._key = key
        self._connections: set[Connection] = set()
        self._world = World(picture, self._push)

    def _push(self, update: Any) -> None:
        for connection in self._connections:
            connection.say(bytes(update))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves a client of the account."""
        connection = Connection(self._key, reader, writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                for message_id, request in await connection.receive():
                    self._connections.add(connection)
                    connection.answer(message_id, self._answer(request))
        self._connections.discard(connection)
        connection.close()

    def _answer(self, request: Any) -> Any:
        log.info("%s", request)
        try:
            return answer(self._world, request)
        except Refusal as error:
            return types.RpcError(error.code, error.name)

    async def obey(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves the test: `[name, {argument: value}]`; attributes are looked up by name."""
        while line := await reader.readline():
            name, arguments = json.loads(line)
            found = getattr(self._world, name)
            result = found(**arguments) if callable(found) else found
            writer.write(json.dumps(result).encode() + b"\n")
        writer.close()


async def main(port: int, command_port: int, key: str, picture: str) -> None:
    """Runs until it is killed."""
    network = Network(bytes.fromhex(key), bytes.fromhex(picture))
    await asyncio.start_server(network.obey, "127.0.0.1", command_port, limit=2**24)
    await asyncio.start_server(network.serve, "127.0.0.1", port, limit=2**24)
    log.warning("telegram is up")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]))
