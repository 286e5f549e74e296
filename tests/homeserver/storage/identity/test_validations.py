"""Rows of proofs: attempts, expiry, and use."""

from __future__ import annotations

import asyncio

import pytest

from homeserver import limits
from homeserver.storage.database import Database
from homeserver.storage.identity import validations
from homeserver.storage.identity.validations import Begun, NewValidation, ValidationTable


@pytest.fixture
def table(database: Database) -> ValidationTable:
    return ValidationTable(database)


def new(
    sid: str,
    *,
    secret: str = "secret",
    attempt: int = 1,
    expires_ms: int = 100,
    now_ms: int = 0,
) -> NewValidation:
    return NewValidation(
        sid=sid,
        purpose="addition",
        address="a@b",
        secret_hash=secret.encode(),
        send_attempt=attempt,
        token_hash=f"token {attempt}".encode(),
        next_link=None,
        expires_ms=expires_ms,
        now_ms=now_ms,
    )


async def test_only_a_newer_attempt_counts(table: ValidationTable) -> None:
    assert await table.begin(new("one", attempt=2)) == Begun("one", is_new=True)
    assert await table.begin(new("two", attempt=2)) == Begun("one", is_new=False)
    assert await table.begin(new("two", attempt=1)) == Begun("one", is_new=False)
    assert await table.begin(new("two", attempt=3)) == Begun("one", is_new=True)
    found = await table.load("one", 0)
    assert found is not None
    assert found.token_hash == b"token 3"


async def test_an_expired_row_is_not_there_and_goes(table: ValidationTable) -> None:
    await table.begin(new("one", expires_ms=100))
    assert await table.load("one", 99) is not None
    assert await table.load("one", 100) is None
    assert await table.begin(new("two", now_ms=100, expires_ms=200)) == Begun("two", is_new=True)


async def test_beyond_the_bound_the_oldest_that_is_not_validated_goes(
    table: ValidationTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "VALIDATIONS_PER_ADDRESS", 2)
    await table.begin(new("one", secret="1", expires_ms=90))
    await table.validate("one", b"token 1", now_ms=1, expires_ms=90)
    for sid in ("two", "three", "four"):
        begun = await table.begin(new(sid, secret=sid, expires_ms=100 + len(sid)))
        assert begun == Begun(sid, is_new=True)
    kept = [sid for sid in ("one", "two", "three", "four") if await table.load(sid, 1)]
    assert kept == ["one", "four"]
    assert await table.begin(new("x", secret="four", attempt=2)) == Begun("four", is_new=True)
    assert await table.load("one", 1) is not None


async def test_proofs_that_were_made_are_bounded_and_a_repeat_is_no_new_one(
    table: ValidationTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "VALIDATIONS_PER_ADDRESS", 2)
    for sid in ("one", "two"):
        await table.begin(new(sid, secret=sid))
        await table.validate(sid, b"token 1", now_ms=1, expires_ms=50)
    assert await table.begin(new("three", secret="three")) is None
    assert await table.load("three", 1) is None
    assert await table.begin(new("x", secret="one", attempt=9)) == Begun("one", is_new=False)


async def test_a_token_comes_back_once(table: ValidationTable) -> None:
    await table.begin(new("one"))
    both = await asyncio.gather(
        *(table.validate("one", b"token 1", now_ms=1, expires_ms=50) for _ in range(2))
    )
    assert sorted(both) == [False, True]
    assert not await table.validate("one", b"token 1", now_ms=2, expires_ms=50)


async def test_a_proof_is_taken_once_for_its_purpose_in_its_time(
    database: Database, table: ValidationTable
) -> None:
    await table.begin(new("one"))
    async with database.transaction() as connection:
        assert await validations.take(connection, "one", "addition", 0) is None
    await table.validate("one", b"token 1", now_ms=1, expires_ms=50)
    async with database.transaction() as connection:
        assert await validations.take(connection, "one", "password", 2) is None
        assert await validations.take(connection, "one", "addition", 50) is None
        assert await validations.take(connection, "one", "addition", 2) == ("a@b", 1)
        assert await validations.take(connection, "one", "addition", 2) is None
