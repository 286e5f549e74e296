"""Queries for keys: the time that a client gives other servers, within our bound."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from federation.errors import MatrixError
from homeserver import limits
from homeserver.api.encryption.keys import KeysApi
from tests.homeserver.device_world import ALICE

MOST_MS = int(limits.KEYS_REMOTE_TIMEOUT_S_MAX * 1000)


class Queries:
    """Notes how long it may take."""

    waits_s: float | None = None

    async def query(self, _: object, __: object, *, timeout_s: float) -> dict[str, Any]:
        self.waits_s = timeout_s
        return {}


async def waited_s(**body: object) -> float | None:
    """Returns the time that a query has for other servers."""
    queries: Any = Queries()
    rest: Any = None
    api = KeysApi(
        keys=rest, queries=queries, cross_signing=rest, device_lists=rest, uia=rest, tokens=rest
    )

    async def json() -> dict[str, object]:
        return {"device_keys": {}, **body}

    request = SimpleNamespace(json=json, requester=SimpleNamespace(user_id=ALICE))
    await api.query(cast(Any, request))
    found: float | None = queries.waits_s
    return found


@pytest.mark.parametrize(
    ("timeout_ms", "expected_ms"), [(0, 0), (MOST_MS, MOST_MS), (MOST_MS + 1, MOST_MS)]
)
async def test_a_query_may_take_so_long(timeout_ms: int, expected_ms: int) -> None:
    assert await waited_s(timeout=timeout_ms) == expected_ms / 1000


async def test_without_a_time_the_specifications_holds() -> None:
    """Spec: client-server API, "POST /keys/query": 10 seconds is the recommended default."""
    assert limits.KEYS_REMOTE_TIMEOUT_MS_DEFAULT == 10_000
    assert await waited_s() == limits.KEYS_REMOTE_TIMEOUT_MS_DEFAULT / 1000


@pytest.mark.parametrize("timeout", [-1, "1", 0.5, True, None])
async def test_what_is_not_a_time_is_refused(timeout: object) -> None:
    with pytest.raises(MatrixError, match="M_BAD_JSON"):
        await waited_s(timeout=timeout)
