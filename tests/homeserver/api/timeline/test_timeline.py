"""Endpoints that send messages and redactions: what they ask of the service, what they refuse
before."""

from typing import Any, cast

import pytest

from federation.events.ids import RoomId
from homeserver.api.timeline.timeline import TimelineApi
from homeserver.services.timeline.timeline import SendRequest, Timeline
from tests.homeserver.api.handlers import ALICE, GUEST, NotedService, Reply, serving

ROOM = RoomId("!r:hs1")
SEND = f"/rooms/{ROOM}/send/m.room.message/t1"
REDACT = f"/rooms/{ROOM}/redact/$event/t1"


class Endpoints:
    """The endpoints over a noted service."""

    def __init__(self) -> None:
        self.service = NotedService(send="$sent", redact="$redaction")
        self.routes = TimelineApi(cast(Timeline, self.service)).routes()

    async def put(self, path: str, body: Any = None, requester: Any = ALICE) -> Reply:
        """Makes one call."""
        async with serving(self.routes, requester) as caller:
            return await caller.call("PUT", path, body)


def request_of(event_type: str, content: Any, requester: Any = ALICE) -> SendRequest:
    """Returns what the service is asked for."""
    return SendRequest(requester.user_id, requester.device_id, ROOM, event_type, content, "t1")


@pytest.mark.parametrize("requester", [ALICE, GUEST])
async def test_a_message_is_sent_under_its_transaction_id(requester: Any) -> None:
    """Of the device's: what is sent again is answered again."""
    endpoints = Endpoints()
    reply = await endpoints.put(SEND, {"body": "a"}, requester)
    assert reply == (200, {"event_id": "$sent"})
    wanted = request_of("m.room.message", {"body": "a"}, requester)
    assert endpoints.service.only == ("send", (wanted,), {})


async def test_parts_of_the_path_are_decoded_once() -> None:
    """A slash in a type or a transaction ID is no separator."""
    endpoints = Endpoints()
    reply = await endpoints.put(f"/rooms/{ROOM}/send/a%2Fb/x%252F", {})
    assert reply.status == 200
    [asked] = endpoints.service.only.arguments
    assert (asked.type, asked.transaction_id) == ("a/b", "x%2F")


async def test_a_redaction_names_its_event_in_the_path_alone() -> None:
    """`redacts` in the body would be another event, in the newer rooms."""
    endpoints = Endpoints()
    reply = await endpoints.put(REDACT, {"reason": "why", "redacts": "$other"})
    assert reply == (200, {"event_id": "$redaction"})
    wanted = request_of("m.room.redaction", {"reason": "why"})
    assert endpoints.service.only == ("redact", (wanted, "$event"), {})


async def test_guests_dont_redact() -> None:
    """They send messages."""
    endpoints = Endpoints()
    reply = await endpoints.put(REDACT, {}, GUEST)
    assert reply.refusal == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert endpoints.service.asked == []


@pytest.mark.parametrize("path", [SEND, REDACT])
@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        (None, "M_NOT_JSON"),
        (b"{", "M_NOT_JSON"),
        (b"[]", "M_BAD_JSON"),
        ({"a": 1.5}, "M_BAD_JSON"),
        ({"a": [2**53]}, "M_BAD_JSON"),
    ],
)
async def test_what_cant_be_an_events_content_is_refused(
    path: str, body: Any, errcode: str
) -> None:
    """Before anything is sent."""
    endpoints = Endpoints()
    assert (await endpoints.put(path, body)).refusal == (400, errcode)
    assert endpoints.service.asked == []
