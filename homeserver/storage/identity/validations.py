"""The table `validations`: proofs that somebody owns an e-mail address, each for one purpose.

A row goes when it is used, or after its time: each new one takes the expired ones with it.
"""

from __future__ import annotations

import msgspec

from homeserver import limits
from homeserver.storage.database import Connection, Database


class NewValidation(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a mail. `token_hash` None: the mail has no token, or there is no mail."""

    sid: str
    purpose: str
    address: str
    secret_hash: bytes
    send_attempt: int
    token_hash: bytes | None
    next_link: str | None
    expires_ms: int
    now_ms: int


class Begun(msgspec.Struct, frozen=True):
    """The session of a request; `is_new` says that the attempt is newer than those before."""

    sid: str
    is_new: bool


class Validation(msgspec.Struct, frozen=True):
    """A row that hasn't expired."""

    purpose: str
    address: str
    secret_hash: bytes
    token_hash: bytes | None
    next_link: str | None
    validated_ms: int | None


_BEGIN = """
INSERT INTO validations AS old (sid, purpose, address, secret_hash, send_attempt, token_hash,
    next_link, expires_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (purpose, address, secret_hash) DO UPDATE SET send_attempt = EXCLUDED.send_attempt,
    token_hash = EXCLUDED.token_hash, next_link = EXCLUDED.next_link,
    expires_ms = EXCLUDED.expires_ms
WHERE old.send_attempt < EXCLUDED.send_attempt AND old.validated_ms IS NULL RETURNING sid
"""


async def take(
    connection: Connection, sid: str, purpose: str, now_ms: int
) -> tuple[str, int] | None:
    """Uses a proof up: returns the address and the time at which it was validated, None if there
    is no such proof (any more)."""
    row = await connection.fetchrow(
        "DELETE FROM validations WHERE sid = $1 AND purpose = $2 AND validated_ms IS NOT NULL"
        " AND expires_ms > $3 RETURNING address, validated_ms",
        sid,
        purpose,
        now_ms,
    )
    return None if row is None else (row[0], row[1])


async def _make_room(connection: Connection, new: NewValidation) -> bool:
    """Keeps the proofs of an address bounded after a further one. Returns False, and takes that one
    back, if no other may go."""
    one = "purpose = $1 AND address = $2"
    validated: int = await connection.fetchval(
        f"SELECT count(*) FROM validations WHERE {one} AND validated_ms IS NOT NULL",
        new.purpose,
        new.address,
    )
    if validated >= limits.VALIDATIONS_PER_ADDRESS:
        await connection.execute("DELETE FROM validations WHERE sid = $1", new.sid)
        return False
    await connection.execute(
        f"DELETE FROM validations WHERE sid IN (SELECT sid FROM validations WHERE {one}"
        " AND validated_ms IS NULL AND sid <> $3 ORDER BY expires_ms DESC OFFSET $4"
        " FOR UPDATE SKIP LOCKED)",
        new.purpose,
        new.address,
        new.sid,
        limits.VALIDATIONS_PER_ADDRESS - validated - 1,
    )
    return True


class ValidationTable:
    """The proofs under way, and made."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, new: NewValidation) -> Begun | None:
        """Begins a proof, or a further attempt of one. Of an address and purpose at most
        `VALIDATIONS_PER_ADDRESS` are kept: beyond that the oldest that isn't validated goes. None
        if all were validated."""
        async with self._database.transaction() as connection:
            await connection.execute("DELETE FROM validations WHERE expires_ms <= $1", new.now_ms)
            sid = await connection.fetchval(
                _BEGIN,
                new.sid,
                new.purpose,
                new.address,
                new.secret_hash,
                new.send_attempt,
                new.token_hash,
                new.next_link,
                new.expires_ms,
            )
            if sid == new.sid and not await _make_room(connection, new):
                return None
            if sid is not None:
                return Begun(sid, is_new=True)
            known = await connection.fetchval(
                "SELECT sid FROM validations WHERE purpose = $1 AND address = $2"
                " AND secret_hash = $3",
                new.purpose,
                new.address,
                new.secret_hash,
            )
            return Begun(known, is_new=False)

    async def load(self, sid: str, now_ms: int) -> Validation | None:
        """Returns a proof that hasn't expired."""
        row = await self._database.fetchrow(
            "SELECT purpose, address, secret_hash, token_hash, next_link, validated_ms"
            " FROM validations WHERE sid = $1 AND expires_ms > $2",
            sid,
            now_ms,
        )
        return None if row is None else Validation(*row)

    async def validate(self, sid: str, token_hash: bytes, *, now_ms: int, expires_ms: int) -> bool:
        """Notes that the token came back. Returns False if another use of it was quicker."""
        done = await self._database.fetchval(
            "UPDATE validations SET token_hash = NULL, validated_ms = $3, expires_ms = $4"
            " WHERE sid = $1 AND token_hash = $2 RETURNING true",
            sid,
            token_hash,
            now_ms,
            expires_ms,
        )
        return bool(done)
