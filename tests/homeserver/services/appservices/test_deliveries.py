"""Deliveries to all services: they begin anew with new registrations, and wait for the database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from homeserver import limits
from homeserver.metrics import ServerMetrics
from homeserver.rules.appservices.registrations import AppServices
from homeserver.services.appservices.deliveries import Deliveries
from homeserver.services.appservices.delivery import Delivery
from homeserver.storage.database import DatabaseUnavailable
from tests.faults.servers import until
from tests.homeserver.appservice_world import bridged
from tests.homeserver.bridge_service import bridge_service
from tests.homeserver.rules.appservices.test_registrations import parsed


async def test_new_registrations_count_at_once(postgres_url: str, tmp_path: Path) -> None:
    """The service moves to another address, then is registered without one."""
    async with (
        bridge_service() as former,
        bridge_service() as present,
        bridged(postgres_url, tmp_path, url=former.url) as bridge,
    ):
        server, registrations = bridge.server, bridge.server.services.appservices.registrations
        alice = await server.register("alice")
        room_id = await server.create_room(alice, preset="public_chat")
        await bridge.ok("POST", f"/join/{quote(room_id)}", {})
        await former.until_sent(await server.send(alice, room_id, "1"))
        deliveries = server.services.appservices.deliveries

        async def loaded(**more: Any) -> None:
            before = deliveries._running
            bridge.write(**more)
            registrations.reload()

            async def is_new() -> bool:
                return deliveries._running is not before

            await until(is_new, "the deliveries begin anew")

        await loaded(url=present.url)
        second = await server.send(alice, room_id, "2")
        assert [one["event_id"] for one in await present.until_sent(second)] == [second]
        await loaded(url=None)
        rows = "SELECT count(*) FROM appservices"
        assert await server.database.fetchval(rows) == 0  # forgotten
        await server.send(alice, room_id, "3")
        await loaded(url=present.url)
        fourth = await server.send(alice, room_id, "4")
        sent = [one["event_id"] for one in await present.until_sent(fourth)]
        assert sent == [second, fourth]
        bodies: dict[str, Any] = {}
        for one in (*former.transactions, *present.transactions):
            assert bodies.setdefault(one.path, one.body) == one.body, "an ID is used once"


class _Slept(Exception):
    pass


class _Clock:
    """Ends the task that sleeps, and notes for how long."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        raise _Slept


class _Away:
    """A database that is away."""

    end = 1

    def __getattr__(self, _name: str) -> Callable[..., Any]:
        async def away(*_values: object, **_options: object) -> None:
            raise DatabaseUnavailable("away")

        return away


class _Registrations:
    def __init__(self) -> None:
        self.current = AppServices([parsed()])

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Nothing changes."""


class _Parts:
    def __init__(self) -> None:
        self.clock, self.table = _Clock(), _Away()
        self.reader = _Away()


async def test_the_database_is_awaited() -> None:
    parts: Any = _Parts()
    registrations: Any = _Registrations()
    with pytest.raises(_Slept):
        await Deliveries(registrations, parts, ServerMetrics()).run()
    with pytest.raises(_Slept):
        await Delivery(parsed(), parts).run()
    assert parts.clock.slept == [limits.APPSERVICE_DATABASE_S] * 2


async def test_a_service_has_its_time_for_a_transaction(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes longer is asked again; the time of queries has nothing to do with it."""
    monkeypatch.setattr("homeserver.limits.APPSERVICE_BACKOFF_S_LEAST", 0.01)
    monkeypatch.setattr("homeserver.limits.APPSERVICE_QUERY_S", 0.001)
    asked: list[float | None] = []
    async with bridge_service() as service, bridged(postgres_url, tmp_path, url=service.url) as one:
        client = one.server.services.appservices.queries._client
        exchange = client.exchange

        async def noted(*values: Any) -> Any:
            asked.append(values[1].timeout_s)
            return await exchange(*values)

        monkeypatch.setattr(client, "exchange", noted)
        alice = await one.server.register("alice")
        room_id = await one.server.create_room(alice, preset="public_chat")
        await one.ok("POST", f"/join/{quote(room_id)}", {})
        await service.until_sent(await one.server.send(alice, room_id, "1"))
    assert set(asked) == {limits.APPSERVICE_TRANSACTION_S}
