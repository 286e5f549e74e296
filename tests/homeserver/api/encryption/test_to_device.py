"""The endpoint of messages to devices."""

from typing import Any, cast

import pytest

from homeserver.api.encryption.to_device import ToDeviceApi
from homeserver.services.encryption.to_device import ToDevice
from tests.homeserver.api.handlers import GUEST, NotedService, Reply, serving


class Endpoints:
    """The endpoint over a noted service."""

    def __init__(self) -> None:
        self.service = NotedService()
        self.routes = ToDeviceApi(cast(ToDevice, self.service)).routes()

    async def put(self, path: str, body: Any) -> Reply:
        """Makes one call, as a guest."""
        async with serving(self.routes, GUEST) as caller:
            return await caller.call("PUT", path, body)


@pytest.mark.parametrize("messages", [{}, {"@b:hs1": {"DEV": {"n": 1.5}}}, None, "strange"])
async def test_messages_are_handed_on_under_their_transaction_id(messages: Any) -> None:
    """As they came: the service checks them; the ID is the device's."""
    endpoints = Endpoints()
    reply = await endpoints.put("/sendToDevice/m.test/t%2F1", {"messages": messages})
    assert reply == (200, {})
    options = {"event_type": "m.test", "transaction_id": "t/1", "messages": messages}
    assert endpoints.service.only == ("send", (GUEST.user_id, GUEST.device_id), options)


@pytest.mark.parametrize(
    ("body", "errcode"), [({}, "M_MISSING_PARAM"), (b"x", "M_NOT_JSON"), (b"[]", "M_BAD_JSON")]
)
async def test_there_must_be_messages(body: Any, errcode: str) -> None:
    """Nothing is sent otherwise."""
    endpoints = Endpoints()
    reply = await endpoints.put("/sendToDevice/m.test/t1", body)
    assert reply.refusal == (400, errcode)
    assert endpoints.service.asked == []
