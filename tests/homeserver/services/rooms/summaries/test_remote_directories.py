"""Directories of other servers: what of their answers is passed on, and who may have them asked."""

from __future__ import annotations

from typing import Any

import pytest

from federation.causes import Cause, CauseKind, caused_by
from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import ServerName
from federation.listing_ports import DirectoryQuestion
from federation.transport.requests.client import FailureKind, FederationError
from homeserver import limits
from homeserver.services.rooms.summaries.remote_directories import RemoteDirectories

THERE = ServerName("there.example")
QUESTION = DirectoryQuestion(5, "since", search_term="x")


def entry(room_id: str = "!r:there.example", **more: Any) -> JsonObject:
    return {
        "room_id": room_id,
        "num_joined_members": 1,
        "world_readable": False,
        "guest_can_join": False,
        **more,
    }


class Other:
    """Another server, and what was asked."""

    def __init__(self, answer: JsonObject | FederationError, *, admits: bool = True) -> None:
        self.answer, self.admits = answer, admits
        self.asked: list[object] = []
        self.admitted: list[str] = []
        self.directories = RemoteDirectories(self.ask, self.admit)

    async def ask(self, server: ServerName, question: DirectoryQuestion) -> JsonObject:
        self.asked.append((server, question))
        if isinstance(self.answer, FederationError):
            raise self.answer
        return self.answer

    def admit(self, address: str) -> None:
        self.admitted.append(address)
        if not self.admits:
            raise MatrixError(429, "M_LIMIT_EXCEEDED", "too many")

    async def page(self, *, has_token: bool = True) -> JsonObject:
        return await self.directories.page(THERE, QUESTION, has_token=has_token)


async def test_a_page_is_passed_on() -> None:
    answer = {
        "chunk": [entry(name="Room", join_rule="knock")],
        "next_batch": "next",
        "prev_batch": "before",
        "total_room_count_estimate": 7,
    }
    other = Other(answer)
    assert await other.page() == answer
    assert (other.asked, other.admitted) == ([(THERE, QUESTION)], [])


async def test_what_the_specification_has_not_is_left_out() -> None:
    odd = {
        "chunk": [None, 5, {}, entry(name=5, more=1), entry("not an ID")],
        "next_batch": 5,
        "prev_batch": "",
        "total_room_count_estimate": -1,
        "more": {},
    }
    assert await Other(odd).page() == {"chunk": [entry()]}


async def test_a_page_has_so_many_rooms_and_tokens_so_many_characters() -> None:
    rooms = [entry(f"!{number}:e.org") for number in range(limits.REMOTE_DIRECTORY_ROOMS + 1)]
    longest = "x" * limits.REMOTE_DIRECTORY_TOKEN_CHARACTERS
    page = await Other({"chunk": rooms, "next_batch": longest}).page()
    assert (page["chunk"], page["next_batch"]) == (rooms[:-1], longest)
    assert "next_batch" not in await Other({"chunk": [], "next_batch": f"{longest}x"}).page()


@pytest.mark.parametrize(
    ("answer", "status", "errcode"),
    [
        (FederationError(THERE, FailureKind.STATUS, "no", status=403), 403, "M_FORBIDDEN"),
        (FederationError(THERE, FailureKind.STATUS, "no", status=401), 403, "M_FORBIDDEN"),
        (FederationError(THERE, FailureKind.STATUS, "no", status=404), 502, "M_UNKNOWN"),
        (FederationError(THERE, FailureKind.TIMEOUT, "slow"), 502, "M_UNKNOWN"),
        ({}, 502, "M_UNKNOWN"),
        ({"chunk": {}}, 502, "M_UNKNOWN"),
    ],
)
async def test_a_server_that_shows_nothing_is_told_of(
    answer: JsonObject | FederationError, status: int, errcode: str
) -> None:
    with pytest.raises(MatrixError) as caught:
        await Other(answer).page()
    assert (caught.value.status, caught.value.errcode) == (status, errcode)


async def test_without_a_token_others_are_asked_as_often_as_the_address_may() -> None:
    with caused_by(Cause(CauseKind.ADDRESS, "192.0.2.1")):
        other = Other({"chunk": []})
        await other.page(has_token=False)
        assert other.admitted == ["192.0.2.1"]
        refusing = Other({"chunk": []}, admits=False)
        with pytest.raises(MatrixError) as caught:
            await refusing.page(has_token=False)
        assert (caught.value.status, refusing.asked) == (429, [])
        assert await refusing.page() == {"chunk": []}
