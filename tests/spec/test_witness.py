"""The witness sees what is off the specification, whoever says it, and nothing else."""

from __future__ import annotations

import pytest

from federation.events.canonical_json import JsonObject
from federation.ports import Template
from federation.transport.joining.joining import MembershipRequest
from federation.transport.requests.client import ServerRequest
from tests.federation.transport.loopback import loopback
from tests.spec.spec_files import find_operation, needs_spec
from tests.spec.witness import check_answer, check_request, take_faults

V3 = "/_matrix/client/v3"
SENT = f"{V3}/rooms/%21r%3Ax/send/m.room.message/t1"


@needs_spec
def test_an_answer_to_a_client_is_held_to_its_schema() -> None:
    check_answer("PUT", SENT, 200, b'{"event_id":"$e"}')
    assert take_faults() == []
    check_answer("PUT", SENT, 200, b"{}")
    (fault,) = take_faults()
    assert "'event_id' is a required property" in fault


@needs_spec
def test_an_answer_is_json() -> None:
    check_answer("PUT", SENT, 200, b"<html>")
    assert "isn't JSON" in take_faults()[0]
    check_answer("PUT", SENT, 200, b"[" * 2000 + b"]" * 2000)
    assert take_faults() == []


@needs_spec
def test_a_refusal_has_an_error_code() -> None:
    check_answer("PUT", SENT, 418, b'{"errcode":"M_UNKNOWN","error":"tea"}')
    assert take_faults() == []
    check_answer("PUT", SENT, 418, b'{"error":"tea"}')
    assert "errcode" in take_faults()[0]
    check_answer("PUT", SENT, 204, b"{}")
    assert "isn't described" in take_faults()[0]


@needs_spec
def test_both_meanings_of_401_are_right() -> None:
    path = f"{V3}/account/password"
    check_answer("POST", path, 401, {"errcode": "M_UNKNOWN_TOKEN", "error": "no"})
    check_answer("POST", path, 401, {"flows": [{"stages": []}], "session": "s"})
    assert take_faults() == []
    check_answer("POST", path, 401, {"session": "s"})
    assert "flows" in take_faults()[0]


@needs_spec
def test_a_body_sent_to_a_push_gateway_is_held_to_its_schema() -> None:
    path = "/_matrix/push/v1/notify"
    check_request("POST", path, b'{"notification":{"devices":[{"app_id":"a","pushkey":"k"}]}}')
    assert take_faults() == []
    check_request("POST", path, b'{"notification":{"devices":[{"app_id":"a"}]}}')
    assert "'pushkey' is a required property" in take_faults()[0]


@needs_spec
def test_a_body_sent_to_another_server_is_held_to_its_schema() -> None:
    check_request("PUT", "/_matrix/federation/v1/send/1", b'{"origin":"a","pdus":[]}')
    assert "'origin_server_ts' is a required property" in take_faults()[0]
    check_request("PUT", "/_matrix/federation/v1/send/1", None)
    assert "the body is missing" in take_faults()[0]
    check_request("GET", "/_matrix/federation/v1/version", b'{"a":1}')
    assert "has no body" in take_faults()[0]
    check_request("GET", "/_matrix/federation/v9/version", None)
    assert "no such operation" in take_faults()[0]


@needs_spec
def test_operations_are_found_by_the_path_on_the_wire() -> None:
    found = find_operation("GET", f"{V3}/rooms/%21r%2Fs/state/m.room.topic?format=event")
    assert found is not None
    assert found.path.endswith("/state/{eventType}/{stateKey}")
    versions = find_operation("GET", "/_matrix/client/versions")
    assert versions is not None
    assert find_operation("GET", "/_matrix/client/v9/sync") is None


@needs_spec
async def test_servers_that_federate_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What two servers of ours agree on is told all the same."""
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"))
        honest = a.rooms.template

        async def without_origin(*given: object) -> Template:
            made = await honest(*given)  # type: ignore[arg-type]
            return Template(made.version, {k: v for k, v in made.event.items() if k != "origin"})

        monkeypatch.setattr(a.rooms, "template", without_origin)
        await b.joining.join(MembershipRequest(room_id, b.user("bob"), {}), [a.name])
        assert "make_join" in "".join(take_faults())
        odd: JsonObject = {"pdus": []}
        await a.client.request(ServerRequest(b.name, "PUT", "/_matrix/federation/v1/send/1", odd))
        assert "'origin' is a required property" in "".join(take_faults())
