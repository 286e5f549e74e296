"""The server's side of MTProto 2.0 over TCP, in the "full" transport, for a client that has its
authorization key already (https://core.telegram.org/mtproto/description).

Runs in `.venv-bridges`: the objects on the wire are Telethon's.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
import zlib
from collections.abc import Iterator
from hashlib import sha256
from importlib import import_module
from typing import Any

crypto: Any = import_module("telethon.crypto")
state: Any = import_module("telethon.network.mtprotostate")
extensions: Any = import_module("telethon.extensions")
functions: Any = import_module("telethon.tl.functions")
types: Any = import_module("telethon.tl.types")
core: Any = import_module("telethon.tl.core")

RPC_RESULT, VECTOR = 0xF35C6D01, 0x1CB5C415
BOOL_TRUE, BOOL_FALSE = 0x997275B5, 0xBC799737
WRAPPERS = (
    functions.InvokeWithLayerRequest,
    functions.InitConnectionRequest,
    functions.InvokeAfterMsgRequest,
    functions.InvokeWithoutUpdatesRequest,
)


class Refusal(Exception):
    """An answer that is an error: its code and its name."""

    def __init__(self, code: int, name: str) -> None:
        super().__init__(name)
        self.code, self.name = code, name


def serialized(value: Any) -> bytes:
    """A result as it is on the wire."""
    if isinstance(value, bool):
        return struct.pack("<I", BOOL_TRUE if value else BOOL_FALSE)
    if isinstance(value, list):
        return struct.pack("<Ii", VECTOR, len(value)) + b"".join(bytes(one) for one in value)
    return bytes(value)


class Connection:
    """One connection of the client: its requests, one by one, and what the server says."""

    def __init__(
        self, key: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._key = crypto.AuthKey(key)
        self._reader, self._writer = reader, writer
        self._session = self._salt = 0
        self._sent = self._content_sent = 0
        self._last_id = 0

    async def _packet(self) -> bytes:
        head = await self._reader.readexactly(8)
        length, _ = struct.unpack("<ii", head)
        body = await self._reader.readexactly(length - 8)
        if zlib.crc32(head + body[:-4]) != struct.unpack("<I", body[-4:])[0]:
            raise ConnectionError("a wrong checksum")
        return body[:-4]

    async def receive(self) -> list[tuple[int, Any]]:
        """The next packet's requests, each with its message ID. Raises ConnectionError."""
        packet = await self._packet()
        if struct.unpack("<Q", packet[:8])[0] != self._key.key_id:
            raise ConnectionError("another authorization key")
        message_key = packet[8:24]
        pair = state.MTProtoState._calc_key(self._key.key, message_key, True)
        plain = crypto.AES.decrypt_ige(packet[24:], *pair)
        if sha256(self._key.key[88:120] + plain).digest()[8:24] != message_key:
            raise ConnectionError("a wrong message key")
        self._salt, self._session, message_id, _, length = struct.unpack("<qqqii", plain[:32])
        return list(self._requests(message_id, plain[32 : 32 + length]))

    def _requests(self, message_id: int, body: bytes) -> Iterator[tuple[int, Any]]:
        found = extensions.BinaryReader(body).tgread_object()
        if isinstance(found, core.MessageContainer):
            for message in found.messages:
                yield from self._unpacked(message.msg_id, message.obj)
        else:
            yield from self._unpacked(message_id, found)

    def _unpacked(self, message_id: int, found: Any) -> Iterator[tuple[int, Any]]:
        if isinstance(found, core.GzipPacked):
            found = extensions.BinaryReader(found.data).tgread_object()
        while isinstance(found, WRAPPERS):
            found = found.query
        if isinstance(found, functions.PingRequest | functions.PingDelayDisconnectRequest):
            self.say(bytes(types.Pong(message_id, found.ping_id)))
        elif not isinstance(found, types.MsgsAck):
            yield message_id, found

    def answer(self, message_id: int, result: Any) -> None:
        """Answers a request: an object, a list of objects, or a truth value."""
        self.say(struct.pack("<Iq", RPC_RESULT, message_id) + serialized(result))

    def say(self, body: bytes) -> None:
        """Sends a serialized object."""
        self._last_id = max(self._last_id + 4, (int(time.time() * 2**32) & ~3) | 1)
        head = struct.pack(
            "<qqqii",
            self._salt,
            self._session,
            self._last_id,
            2 * self._content_sent + 1,
            len(body),
        )
        self._content_sent += 1
        plain = head + body
        plain += os.urandom(-(len(plain) + 12) % 16 + 12)
        message_key = sha256(self._key.key[96:128] + plain).digest()[8:24]
        pair = state.MTProtoState._calc_key(self._key.key, message_key, False)
        packet = struct.pack("<Q", self._key.key_id) + message_key
        packet += crypto.AES.encrypt_ige(plain, *pair)
        framed = struct.pack("<ii", len(packet) + 12, self._sent) + packet
        self._sent += 1
        self._writer.write(framed + struct.pack("<I", zlib.crc32(framed)))

    def close(self) -> None:
        """Hangs up."""
        self._writer.close()
