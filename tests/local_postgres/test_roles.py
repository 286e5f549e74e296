"""Roles and their passwords: one private file, names that are safe in SQL, rights that are repaired
at each start."""

import stat
from base64 import b64decode
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from local_postgres import EmbeddedCluster
from local_postgres.roles import (
    RolePasswords,
    check_name,
    dsn,
    ensure_role_and_database,
    scram_verifier,
    write_private,
)


def test_a_password_is_on_disk_before_it_is_given_out(tmp_path: Path) -> None:
    """Else a crash would leave a database that nobody can open."""
    path = tmp_path / "passwords.json"
    password = RolePasswords(path).of("hs1")
    assert RolePasswords(path).of("hs1") == password
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_each_role_has_its_own_password(tmp_path: Path) -> None:
    """Random ones, kept when another is added."""
    passwords = RolePasswords(tmp_path / "passwords.json")
    made = [passwords.of(name) for name in ("hs1", "hs2", "hs3")]
    assert len(set(made)) == 3
    assert all(len(password) >= 32 for password in made)
    again = RolePasswords(tmp_path / "passwords.json")
    assert [again.of(name) for name in ("hs1", "hs2", "hs3")] == made


def test_passwords_are_never_shown(tmp_path: Path) -> None:
    """Names only, in whatever prints the object."""
    passwords = RolePasswords(tmp_path / "passwords.json")
    secret = passwords.of("hs1")
    assert "hs1" in repr(passwords)
    assert secret not in repr(passwords)
    assert secret not in str(passwords)


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    """It is closed even if the one before was open, or one was left half-written."""
    path = tmp_path / "file"
    path.write_text("before, and longer")
    path.chmod(0o644)
    left = tmp_path / "file.new"
    left.write_text("half")
    left.chmod(0o666)
    write_private(path, b"after")
    assert path.read_bytes() == b"after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_the_scram_verifier_is_the_one_of_the_standard() -> None:
    """RFC 7677's example: its password, salt and iterations give its stored keys."""
    verifier = scram_verifier("pencil", b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    assert verifier.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
    assert verifier.endswith(
        "$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


@pytest.mark.parametrize(
    "name",
    [
        *("", "Hs1", "hs-1", "1hs", "_x", "a" * 64, 'x"; DROP TABLE y', "x y", "ü", "hs1\n"),
        *("postgres", "template0", "template1", "public", "pg_x", "pg_"),
    ],
)
def test_a_name_that_is_no_identifier_is_refused(name: str) -> None:
    """Names go into SQL text, so they are checked before; PostgreSQL's own are taken."""
    assert check_name(name) is not None


@pytest.mark.parametrize("name", ["a", "hs1", "a" * 63, "t_0123", "pgx", "publics"])
def test_a_plain_name_is_accepted(name: str) -> None:
    """The other side of the limit."""
    assert check_name(name) is None


def test_an_address_names_the_socket_and_nothing_in_it_is_misread() -> None:
    """A folder with characters that mean something in an address."""
    address = dsn("hs1", "word", "hs1", Path("/srv/a b&c?d#e/socket"))
    parts = urlsplit(address)
    assert (parts.username, parts.password, parts.path) == ("hs1", "word", "/hs1")
    assert parts.hostname is None
    assert parse_qs(parts.query) == {"host": ["/srv/a b&c?d#e/socket"]}
    assert parts.fragment == ""


async def test_rights_that_were_given_away_are_taken_back(
    postgres_cluster: EmbeddedCluster,
) -> None:
    """Making a role again repairs it, whatever became of it, and sets its password."""
    name = "repaired_role"
    connection = await asyncpg.connect(postgres_cluster.superuser_dsn())
    try:
        await ensure_role_and_database(connection, name, "first")
        await connection.execute(f"ALTER ROLE {name} SUPERUSER CREATEDB CREATEROLE NOLOGIN")
        await connection.execute(f"GRANT CONNECT ON DATABASE {name} TO PUBLIC")
        await ensure_role_and_database(connection, name, "second")
        rights = await connection.fetchrow(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, NOT rolcanlogin, "
            "has_database_privilege('public', $1::text, 'CONNECT') "
            "FROM pg_roles WHERE rolname = $1",
            name,
        )
        assert rights is not None
        assert not any(rights)
    finally:
        await connection.close()
    own = dsn(name, "second", name, postgres_cluster.socket_dir)
    connection = await asyncpg.connect(own)
    try:
        owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
        assert await connection.fetchval(owner) == name
    finally:
        await connection.close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(own.replace("second", "first"))
