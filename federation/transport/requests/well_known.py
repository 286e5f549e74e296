"""`/.well-known/matrix/server`: which server answers for a host name.

Rules:
1. Redirects are followed, a bounded number, only to https, each target resolved and checked anew.
2. A valid answer is kept as its cache headers say, between bounds; a failure up to an hour,
   doubling with each further failure. The cache is bounded: the oldest entry is dropped.
3. Whatever is wrong with the answer means that there is no delegation, never a failed resolution.

Spec: server-server API, "Resolving server names", step 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin

from federation.bounded_cache import BoundedCache
from federation.events.ids import ServerName, is_reachable_name
from federation.https_urls import parse_https_url
from federation.limits import (
    RESOLVE_CACHE_ENTRIES_MAX,
    WELL_KNOWN_BYTES_MAX,
    WELL_KNOWN_CACHE_S_DEFAULT,
    WELL_KNOWN_CACHE_S_MAX,
    WELL_KNOWN_CACHE_S_MIN,
    WELL_KNOWN_ERROR_S_MAX,
    WELL_KNOWN_ERROR_S_MIN,
    WELL_KNOWN_REDIRECTS_MAX,
    WELL_KNOWN_S_MAX,
)
from federation.ports import Clock
from federation.retries import DoublingWaits
from federation.transport.requests.answers import parse_document
from federation.transport.requests.dialer import (
    Bounds,
    Dialer,
    DialError,
    HttpResponse,
    Outgoing,
)
from federation.transport.requests.urls import Lookup, find_endpoint

_PATH = "/.well-known/matrix/server"
_MAX_AGE = re.compile(r"max-age\s*=\s*\"?(\d{1,10})", re.IGNORECASE)
_BOUNDS = Bounds(timeout_s=WELL_KNOWN_S_MAX, bytes_max=WELL_KNOWN_BYTES_MAX)
_ERRORS_KEPT_S = DoublingWaits(WELL_KNOWN_ERROR_S_MIN, WELL_KNOWN_ERROR_S_MAX)


@dataclass(frozen=True, slots=True)
class _Entry:
    delegated: ServerName | None
    until_s: float
    failures: int


class WellKnown:
    """Delegations by host name."""

    def __init__(self, dialer: Dialer, lookup: Lookup, clock: Clock) -> None:
        self._dialer, self._lookup, self._clock = dialer, lookup, clock
        self._entries: BoundedCache[str, _Entry] = BoundedCache(RESOLVE_CACHE_ENTRIES_MAX)

    async def delegated(self, host: str) -> ServerName | None:
        """Returns the server name that `host` delegates to; None where it doesn't."""
        entry = self._entries.get(host)
        if entry is not None and entry.until_s > self._clock.monotonic_s():
            return entry.delegated
        try:
            answer = await self._fetch(host)
            delegated = _parse(answer)
        except (DialError, OSError, ValueError):
            # nothing usable there: the usual case of a host without delegation
            self._keep(host, self._failed(entry))
            return None
        keep_s = _cache_s(answer.headers)
        self._keep(host, _Entry(delegated, self._clock.monotonic_s() + keep_s, 0))
        return delegated

    def _failed(self, before: _Entry | None) -> _Entry:
        failures = before.failures + 1 if before is not None else 1
        wait_s = _ERRORS_KEPT_S.after(failures)
        return _Entry(None, self._clock.monotonic_s() + wait_s, failures)

    def _keep(self, host: str, entry: _Entry) -> None:
        self._entries.put(host, entry)

    async def _fetch(self, host: str) -> HttpResponse:
        url = f"https://{host}{_PATH}"
        for _ in range(WELL_KNOWN_REDIRECTS_MAX + 1):
            answer = await self._get(url)
            location = answer.headers.get("location")
            if answer.status not in (301, 302, 303, 307, 308) or location is None:
                return answer
            url = urljoin(url, location)
        raise ValueError("too many redirects")

    async def _get(self, url: str) -> HttpResponse:
        parsed = parse_https_url(url)
        endpoint = await find_endpoint(parsed, self._lookup)
        return await self._dialer.exchange(endpoint, Outgoing("GET", parsed.target, {}), _BOUNDS)


def _parse(answer: HttpResponse) -> ServerName:
    """Returns the delegated name; raises ValueError for whatever is wrong."""
    if answer.status != 200:
        raise ValueError(f"status {answer.status}")
    delegated = parse_document(answer.body).get("m.server")
    if not isinstance(delegated, str):
        raise ValueError("no m.server")
    if not is_reachable_name(delegated):
        raise ValueError("m.server isn't a server name")
    return ServerName(delegated)


def _cache_s(headers: Mapping[str, str]) -> float:
    control = headers.get("cache-control", "")
    if "no-store" in control.lower() or "no-cache" in control.lower():
        return WELL_KNOWN_CACHE_S_MIN
    match = _MAX_AGE.search(control)
    if match is None:
        return WELL_KNOWN_CACHE_S_DEFAULT
    return min(WELL_KNOWN_CACHE_S_MAX, max(WELL_KNOWN_CACHE_S_MIN, float(match.group(1))))
