"""The objects that every part of a server may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from federation.events.ids import ServerName
from federation.events.signing import SigningKey
from federation.ports import Clock
from homeserver.engine.local.stager import Signer
from homeserver.metrics import ServerMetrics

RandomBytes: TypeAlias = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class ServerContext:
    """A server's name and key, its clock, its metrics, and its source of random bytes."""

    name: ServerName
    key: SigningKey
    clock: Clock
    metrics: ServerMetrics
    random_bytes: RandomBytes

    @property
    def signer(self) -> Signer:
        """What signs events of this server."""
        return Signer(self.name, self.key)
