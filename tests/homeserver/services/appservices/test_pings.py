"""An application service asks whether it is reached."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from homeserver import limits
from tests.homeserver.appservice_world import bridged
from tests.homeserver.bridge_service import bridge_service

PING = "/_matrix/client/v1/appservice/irc/ping"


async def test_pings(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its outcomes, on one server."""
    async with (
        bridge_service() as service,
        bridged(postgres_url, tmp_path, url=service.url) as bridge,
    ):
        found = await bridge.ok("POST", PING, {"transaction_id": "meow"})
        assert isinstance(found["duration_ms"], int)
        path = "/_matrix/app/v1/ping"
        [received] = service.received
        assert tuple(received) == ("POST", path, {}, {"transaction_id": "meow"})
        assert set(await bridge.ok("POST", PING, {})) == {"duration_ms"}
        assert service.received[-1].body == {}

        service.answers[path] = (403, b"y" * (limits.APPSERVICE_PING_BODY_CHARACTERS + 1))
        refused = await bridge.call("POST", PING, {})
        assert (refused.status, refused.errcode) == (502, "M_BAD_STATUS")
        assert refused.body["status"] == 403
        assert refused.body["body"] == "y" * limits.APPSERVICE_PING_BODY_CHARACTERS

        monkeypatch.setattr("homeserver.limits.APPSERVICE_QUERY_S", 0.2)
        never = asyncio.Event()
        service.before[path] = never.wait
        late = await bridge.call("POST", PING, {})
        assert (late.status, late.errcode) == (504, "M_CONNECTION_TIMEOUT")
        never.set()

        registrations = bridge.server.services.appservices.registrations
        for url, status, errcode in (
            ("http://127.0.0.1:1", 502, "M_CONNECTION_FAILED"),
            (None, 400, "M_URL_NOT_SET"),
        ):
            bridge.write(url=url)
            await registrations.load()
            failed = await bridge.call("POST", PING, {})
            assert (failed.status, failed.errcode) == (status, errcode)

        other = await bridge.call("POST", PING.replace("irc", "slack"), {})
        alice = await bridge.server.register("alice")
        stranger = await bridge.server.call("POST", PING, {}, by=alice)
        for refused in (other, stranger):
            assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
