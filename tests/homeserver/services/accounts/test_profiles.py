"""Profiles of local users as all others get them, and those that other servers tell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import ServerName, UserId
from federation.transport.requests.client import FailureKind, FederationError
from homeserver.services.accounts.profiles import LocalProfiles, RemoteProfiles
from homeserver.storage.accounts.profiles import ProfileTable
from homeserver.storage.database import Database
from tests.homeserver.conftest import EMPTY_TABLES

ALICE = UserId("@alice:here.example")
BOB = UserId("@bob:there.example")
THERE = ServerName("there.example")


@pytest.fixture
async def local(shared_database_url: str) -> AsyncIterator[LocalProfiles]:
    """Yield profiles of a server where Alice has a name and a city, and Carol's account ended."""
    database = await Database.open(shared_database_url, connections=1)
    async with database.connection() as connection:
        await connection.execute(EMPTY_TABLES)
        await connection.execute(
            "INSERT INTO accounts (user_id, created_ms, is_deactivated)"
            " VALUES ($1, 0, false), ('@carol:here.example', 0, true)",
            ALICE,
        )
    for key, value in (("displayname", b'"Alice"'), ("org.example.city", b'["Rome"]')):
        assert await ProfileTable(database).save(ALICE, key, value, bytes_max=1_000)
    yield LocalProfiles(database)
    await database.close()


async def test_a_query_is_for_the_whole_profile_or_for_one_key(local: LocalProfiles) -> None:
    whole = {"displayname": "Alice", "org.example.city": ["Rome"]}
    assert await local.get(ALICE) == whole
    assert await local.query(ALICE, None) == whole
    assert await local.query(ALICE, "org.example.city") == {"org.example.city": ["Rome"]}


@pytest.mark.parametrize(
    ("user_id", "key"),
    [
        (ALICE, "avatar_url"),
        (UserId("@carol:here.example"), None),
        (UserId("@nobody:here.example"), "displayname"),
    ],
)
async def test_what_is_not_there_is_not_found(
    local: LocalProfiles, user_id: UserId, key: str | None
) -> None:
    with pytest.raises(MatrixError) as refused:
        await local.query(user_id, key)
    assert (refused.value.status, refused.value.errcode) == (404, "M_NOT_FOUND")


def remote(outcome: JsonObject | FederationError, asked: list[Any]) -> RemoteProfiles:
    """Return profiles over another server that always answers or fails so."""

    async def profile(user_id: UserId, field: str | None) -> JsonObject:
        asked.append((user_id, field))
        if isinstance(outcome, FederationError):
            raise outcome
        return outcome

    return RemoteProfiles(cast(Any, SimpleNamespace(profile=profile)))


async def test_another_servers_answer_is_returned_as_it_is() -> None:
    asked: list[Any] = []
    assert await remote({"displayname": "Bob"}, asked).fetch(BOB, "displayname") == {
        "displayname": "Bob"
    }
    assert asked == [(BOB, "displayname")]


@pytest.mark.parametrize(
    ("error", "status", "errcode"),
    [
        (FederationError(THERE, FailureKind.STATUS, "no", status=404), 404, "M_NOT_FOUND"),
        (FederationError(THERE, FailureKind.STATUS, "no", status=403), 502, "M_UNKNOWN"),
        (FederationError(THERE, FailureKind.STATUS, "secret", status=500), 502, "M_UNKNOWN"),
        (FederationError(THERE, FailureKind.REFUSED, "10.0.0.1: secret"), 502, "M_UNKNOWN"),
    ],
)
async def test_only_a_404_is_an_answer_all_else_is_a_failure_without_details(
    error: FederationError, status: int, errcode: str
) -> None:
    with pytest.raises(MatrixError) as refused:
        await remote(error, []).fetch(BOB, None)
    assert (refused.value.status, refused.value.errcode) == (status, errcode)
    assert "secret" not in refused.value.error
