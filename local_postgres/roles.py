"""Roles and databases of the embedded cluster: one role for each server, which sees its own
database.

Rules:
1. Passwords are random, kept in one file of mode 0600, written before PostgreSQL learns them.
2. PostgreSQL is told SCRAM verifiers, so that no statement or log ever holds a password.
3. A server's role is not a superuser and can't create roles or databases; PUBLIC may connect
   nowhere.
"""

import base64
import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path
from urllib.parse import quote

import asyncpg
import msgspec

SUPERUSER = "postgres"
SCRAM_ITERATIONS = 4096
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
RESERVED_NAMES = frozenset({SUPERUSER, "template0", "template1", "public"})


class RolePasswords:
    """The passwords of a cluster's roles, in one private file."""

    def __init__(self, path: Path) -> None:
        """Reads the file, if there is one."""
        self._path = path
        self._passwords: dict[str, str] = {}
        if path.exists():
            self._passwords = msgspec.json.decode(path.read_bytes(), type=dict[str, str])

    def __repr__(self) -> str:
        """Shows names only."""
        return f"Passwords({sorted(self._passwords)})"

    def of(self, role: str) -> str:
        """Returns a role's password; a new one is on disk before it is returned."""
        if role not in self._passwords:
            self._passwords[role] = secrets.token_urlsafe(32)
            write_private(self._path, msgspec.json.encode(self._passwords))
        return self._passwords[role]


def write_private(path: Path, content: bytes) -> None:
    """Writes a file of mode 0600 durably, whole or not at all."""
    work = path.with_name(path.name + ".new")
    descriptor = os.open(work, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    work.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def scram_verifier(password: str, salt: bytes) -> str:
    """Returns the value that PostgreSQL stores for a password (RFC 5803), made here so that it
    never sees it.

    Precondition: the password is ASCII, so that SASLprep leaves it as it is.
    """
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored_text, server_text = (
        base64.b64encode(part).decode() for part in (salt, stored, server)
    )
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{salt_text}${stored_text}:{server_text}"


def check_name(name: str) -> str | None:
    """Returns the reason why a name can't be that of a database and its role, or None."""
    if not NAME.fullmatch(name):
        return f"database name {name!r}: use a-z, 0-9 and _, a letter first, at most 63"
    if name in RESERVED_NAMES or name.startswith("pg_"):
        return f"database name {name!r} is PostgreSQL's own"
    return None


def dsn(role: str, password: str, database: str, socket_dir: Path) -> str:
    """Returns the address of a database over the unix socket, as asyncpg and libpq accept it."""
    return f"postgresql://{role}:{password}@/{database}?host={quote(str(socket_dir), safe='/')}"


async def close_public_doors(connection: asyncpg.Connection) -> None:
    """Takes from PUBLIC the right to connect to the databases that every cluster has (rule 3)."""
    for database in (SUPERUSER, "template1"):
        await connection.execute(f"REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC")


async def ensure_role_and_database(
    connection: asyncpg.Connection, name: str, password: str
) -> None:
    """Makes a role and a database of one name, or makes sure that they are as they should be.

    Precondition: `check_name(name)` is None; `connection` is a superuser's, outside a transaction.
    Can be repeated after an interruption at any point.
    """
    options = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
    exists = await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", name)
    verb = "ALTER" if exists else "CREATE"
    verifier = scram_verifier(password, secrets.token_bytes(16))
    await connection.execute(f"{verb} ROLE {name} {options} PASSWORD '{verifier}'")
    if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
        await connection.execute(f"CREATE DATABASE {name} OWNER {name}")
    await connection.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
