"""Resolves a server name to the address and the name to connect with.

Rules:
1. An address override comes first. It stands for DNS, .well-known and SRV of one name and permits
   private addresses for that name alone.
2. Then, as the spec orders: IP literal; explicit port; .well-known (a delegated name goes through
   the same steps but never through .well-known again); SRV `_matrix-fed`, then `_matrix`; 8448.
3. An SRV record changes the address and the port, never the Host header or the certificate's name.
4. Addresses of a name are kept for a minute, SRV records for their time to live (bounded).

Spec: server-server API, "Resolving server names".
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver

from federation.bounded_cache import BoundedCache
from federation.events.ids import ServerName, is_reachable_name
from federation.limits import (
    ADDRESS_CACHE_S,
    DNS_S_MAX,
    NAME_LOOKUPS_AT_ONCE_MAX,
    QUOTED_ID_CHARACTERS_MAX,
    RESOLVE_CACHE_ENTRIES_MAX,
    RESOLVE_S_MAX,
    SRV_CACHE_S_MAX,
    SRV_CACHE_S_MIN,
    SRV_RECORDS_MAX,
)
from federation.ports import Clock
from federation.transport.acl import ip_of, split_port
from federation.transport.requests.dialer import Endpoint

_PORT = 8448
_T = TypeVar("_T")


class ResolutionFailed(Exception):
    """No address for a server name; the text says at which step."""


@dataclass(frozen=True, slots=True)
class SrvRecord:
    """One record, as found; `ttl_s` of the whole answer."""

    host: str
    port: int
    priority: int
    weight: int
    ttl_s: float


class NameService(Protocol):
    """DNS, as far as it is needed; a test hands in its own."""

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Returns the A and AAAA records (and /etc/hosts); raises OSError where there are none."""

    async def srv(self, name: str) -> Sequence[SrvRecord]:
        """Returns the SRV records, best first; empty if there are none; OSError if DNS fails."""


class Delegations(Protocol):
    """`.well-known` of host names."""

    async def delegated(self, host: str) -> ServerName | None: ...


class SystemNames:
    """The system's resolver for addresses, dnspython for SRV."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # The system's resolver blocks a thread for as long as DNS doesn't answer. Those threads
        # are its own, or names that lead nowhere would hold up all other work in threads.
        self._threads = ThreadPoolExecutor(NAME_LOOKUPS_AT_ONCE_MAX, "names")
        self._addresses: BoundedCache[str, tuple[float, tuple[str, ...]]] = BoundedCache(
            RESOLVE_CACHE_ENTRIES_MAX
        )
        self._srv: BoundedCache[str, tuple[float, tuple[SrvRecord, ...]]] = BoundedCache(
            RESOLVE_CACHE_ENTRIES_MAX
        )

    async def addresses(self, host: str) -> tuple[str, ...]:
        """See NameService."""
        now_s = self._clock.monotonic_s()
        kept = self._addresses.get(host)
        if kept is not None and kept[0] > now_s:
            return kept[1]
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DNS_S_MAX):
            found = await loop.run_in_executor(self._threads, _look_up, host)
        addresses = tuple(dict.fromkeys(str(entry[4][0]).split("%")[0] for entry in found))
        self._addresses.put(host, (now_s + ADDRESS_CACHE_S, addresses))
        return addresses

    async def srv(self, name: str) -> Sequence[SrvRecord]:
        """See NameService."""
        now_s = self._clock.monotonic_s()
        kept = self._srv.get(name)
        if kept is not None and kept[0] > now_s:
            return kept[1]
        try:
            answer = await dns.asyncresolver.resolve(name, "SRV", lifetime=DNS_S_MAX)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            records: tuple[SrvRecord, ...] = ()
            ttl_s = ADDRESS_CACHE_S
        except dns.exception.DNSException as error:
            raise OSError(f"SRV {name}: {error}") from None
        else:
            ttl_s = min(
                SRV_CACHE_S_MAX,
                max(SRV_CACHE_S_MIN, float(answer.rrset.ttl if answer.rrset else 0)),
            )
            records = tuple(
                sorted(
                    (
                        SrvRecord(str(r.target).rstrip("."), r.port, r.priority, r.weight, ttl_s)
                        for r in answer
                    ),
                    key=lambda record: (record.priority, -record.weight),
                )
            )[:SRV_RECORDS_MAX]
        self._srv.put(name, (now_s + ttl_s, records))
        return records


def _look_up(host: str) -> list[tuple[Any, ...]]:
    return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)


class ServerResolver:
    """Resolves server names. Failures aren't kept here: back-off is the client's."""

    def __init__(
        self, names: NameService, delegations: Delegations, overrides: Mapping[str, str]
    ) -> None:
        """`overrides`: server name, or host name without port -> `address[:port]`."""
        self._names, self._delegations = names, delegations
        self._overrides = overrides

    async def resolve(self, server: ServerName) -> Endpoint:
        """Resolves `server` to its address. Raises ResolutionFailed."""
        if not is_reachable_name(server):
            raise ResolutionFailed(f"{server[:QUOTED_ID_CHARACTERS_MAX]!r} isn't a host name")
        try:
            async with asyncio.timeout(RESOLVE_S_MAX):
                return await self._resolve(server)
        except (OSError, TimeoutError, UnicodeError) as error:  # UnicodeError: of IDNA
            raise ResolutionFailed(f"{server}: {error}") from None

    async def _resolve(self, server: ServerName) -> Endpoint:
        host, _ = split_port(server)
        override = self._overrides.get(server) or self._overrides.get(host)
        if override is not None:
            return await self._overridden(server, override)
        direct = await self._direct(server)
        if direct is not None:  # steps 1 and 2: an IP literal or an explicit port
            return direct
        delegated = await self._delegations.delegated(host)  # step 3
        if delegated is None:
            return await self._by_srv(host)  # steps 4 to 6
        direct = await self._direct(delegated)  # steps 3.1 and 3.2
        return direct if direct is not None else await self._by_srv(delegated)  # 3.3 to 3.5

    async def _overridden(self, server: ServerName, override: str) -> Endpoint:
        host, port = split_port(server)
        to_host, to_port = split_port(override)
        literal = ip_of(to_host)
        addresses = (literal,) if literal is not None else await self._names.addresses(to_host)
        return Endpoint(
            addresses=addresses,
            port=to_port or port or _PORT,
            host_header=server,
            tls_name=ip_of(host) or host,
            may_be_private=True,
        )

    async def _direct(self, server: ServerName) -> Endpoint | None:
        host, port = split_port(server)
        literal = ip_of(host)
        if literal is not None:
            return Endpoint((literal,), port or _PORT, server, literal)
        if port is not None:
            return Endpoint(await self._names.addresses(host), port, server, host)
        return None

    async def _by_srv(self, host: str) -> Endpoint:
        for service in ("_matrix-fed", "_matrix"):
            try:
                records = await self._names.srv(f"{service}._tcp.{host}")
            except (OSError, UnicodeError):
                continue  # DNS that can't answer SRV mustn't hide a server with plain addresses
            for record in records:
                if record.host in ("", "."):
                    continue  # RFC 2782: the service isn't offered
                try:
                    found = await self._names.addresses(record.host)
                except (OSError, UnicodeError):
                    continue
                return Endpoint(found, record.port, host, host)
        return Endpoint(await self._names.addresses(host), _PORT, host, host)
