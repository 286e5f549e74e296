"""Checks a configuration against its environment: files, certificates, ports, the database.

`freehold check` prints it before the server is run. An error would keep the server, or federation,
from working; a warning is a setting that the operator may not have intended.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from federation.events.ids import InvalidIdentifier, ServerName, parse_server_name
from homeserver import limits
from homeserver.config import Config, Listener
from homeserver.rules.accounts.server_names import name_problem
from homeserver.rules.identity.email_settings import EmailSettings
from homeserver.signing_keys import SigningKeyInvalid, is_private, load_signing_key
from homeserver.storage.appservices.registration_files import (
    RegistrationsInvalid,
    read_registrations,
)
from homeserver.storage.database import Database, DatabaseUnavailable, DataRefused
from homeserver.storage.media.blob_store import BlobMissing, BlobStoreUnavailable
from homeserver.storage.media.s3_blobs import S3Blobs, open_bucket
from homeserver.storage.server_settings import ServerSettings, load_server_settings

POSTGRES_LEAST = 14
_LOOPBACK = re.compile(r"https?://(localhost|127\.[0-9.]+|\[::1\])(:|/|$)")


class Problem(NamedTuple):
    """A problem to fix, or to know about."""

    is_error: bool
    text: str


def _error(text: str) -> Problem:
    return Problem(True, text)


def _warning(text: str) -> Problem:
    return Problem(False, text)


async def check_config(config: Config) -> list[Problem]:
    """Returns all problems, errors first. Opens the ports and the database for a moment."""
    problems = [
        *_name_problems(config),
        *_policy_problems(config),
        *_file_problems(config),
        *_federation_problems(config),
        *_email_problems(config.email),
        *_authority_problems("push.ca_paths", config.push.ca_paths),
        *_registration_problems(config),
        *_listener_problems(config),
        *await _media_problems(config),
        *await _database_problems(config),
    ]
    return sorted(problems, key=lambda problem: not problem.is_error)


def _name_problems(config: Config) -> Iterator[Problem]:
    if (problem := name_problem(config.server_name)) is not None:
        yield _error(f'server_name "{config.server_name}": {problem}')


def _policy_problems(config: Config) -> Iterator[Problem]:
    registration = config.registration
    if registration.enabled and registration.verification == "none":
        yield _warning('registration is open to everybody: verification = "token" asks for a token')
    if registration.enabled and registration.verification == "token" and not registration.tokens:
        yield _warning("registration.tokens is empty: nobody can register without a token")
    if not config.rate_limits.enabled:
        yield _warning("rate limits are off: passwords can be guessed as fast as we hash")
    if not config.public_baseurl:
        yield _warning("public_baseurl is missing: clients can't find this server by its name")
    elif config.public_baseurl.startswith("http://") and not _LOOPBACK.match(config.public_baseurl):
        yield _warning("public_baseurl has no TLS: passwords and tokens cross the network in clear")


def _file_problems(config: Config) -> Iterator[Problem]:
    path = Path(config.signing_key_path)
    try:
        load_signing_key(path)
        if not is_private(path):
            yield _error(f"signing_key_path: others can read {path}; chmod 600 it")
    except FileNotFoundError:
        yield _warning(f"signing_key_path: there is no {path} yet; `freehold init` makes one")
    except SigningKeyInvalid as error:
        yield _error(f"signing_key_path: {error}")
    data_dir = Path(config.data_dir)
    if data_dir.exists() and not data_dir.is_dir():
        yield _error(f"data_dir: {data_dir} isn't a folder")


def _federation_problems(config: Config) -> Iterator[Problem]:
    settings = config.federation
    yield from _authority_problems("federation.ca_paths", settings.ca_paths)
    for name in (*settings.address_overrides, *settings.trusted_key_servers):
        try:
            parse_server_name(name)
        except InvalidIdentifier as error:
            yield _error(f'federation: "{name}" isn\'t a server name: {error}')
    for name, address in settings.address_overrides.items():
        try:
            Listener(address=address).host_and_port()
        except ValueError as error:
            yield _error(f"federation.address_overrides.{name}: {error}")


def _email_problems(email: EmailSettings) -> Iterator[Problem]:
    if not email.host:
        return
    if email.password_path:
        if not Path(email.password_path).is_file():
            yield _error(f"email.password_path: there is no file {email.password_path}")
        elif not is_private(Path(email.password_path)):
            yield _error(f"email.password_path: others can read {email.password_path}")
    if email.templates_path and not Path(email.templates_path).is_dir():
        yield _error(f"email.templates_path: there is no folder {email.templates_path}")
    if email.ca_path:
        try:
            ssl.create_default_context(cafile=email.ca_path)
        except (OSError, ssl.SSLError) as error:
            yield _error(f"email.ca_path: no usable certificates: {error}")
    if email.tls == "none" and email.user:
        yield _warning("email.tls is none: the mail server's password crosses the network in clear")


def _authority_problems(name: str, paths: Sequence[str]) -> Iterator[Problem]:
    for path in paths:
        try:
            ssl.create_default_context(cafile=path)
        except (OSError, ssl.SSLError) as error:
            yield _error(f"{name}: {path} has no usable certificates: {error}")


def _registration_problems(config: Config) -> Iterator[Problem]:
    try:
        read_registrations(config.appservices.registrations, ServerName(config.server_name))
    except RegistrationsInvalid as error:
        yield from (_error(f"appservices.registrations: {one}") for one in error.problems)


def _listener_problems(config: Config) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, listener in enumerate(config.listeners):
        where = f"listeners[{index}]"
        if listener.address in seen:
            yield _error(f"{where}: {listener.address} is there twice")
        else:
            yield from _port_problems(listener, where)
        seen.add(listener.address)
        if listener.is_tls:
            yield from _certificate_problems(listener, where, config)
    if not any(listener.is_tls or listener.behind_proxy for listener in config.listeners):
        yield _warning(
            "no listener has a certificate: other servers come by TLS, so a proxy must add it"
        )


def _port_problems(listener: Listener, where: str) -> Iterator[Problem]:
    host, port = listener.host_and_port()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            yield _error(f"{where}: can't listen on {listener.address}: {error}")


def _certificate_problems(listener: Listener, where: str, config: Config) -> Iterator[Problem]:
    for path in (listener.tls_cert_path, listener.tls_key_path):
        if not Path(path).is_file():
            yield _error(f"{where}: there is no file {path}")
            return
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(listener.tls_cert_path, listener.tls_key_path)
    except (OSError, ssl.SSLError) as error:
        yield _error(f"{where}: the certificate and its key don't fit, or aren't PEM: {error}")
        return
    host, _ = host_of(config.federation.delegated_name or config.server_name)
    client = _client_context(config.federation.ca_paths)
    if (reason := handshake_failure(server, client, host)) is not None:
        yield _warning(f"{where}: other servers would refuse the certificate for {host}: {reason}")


def _client_context(ca_paths: Sequence[str]) -> ssl.SSLContext:
    """Returns a TLS context as of another server that trusts the same authorities as we do."""
    client = ssl.create_default_context()
    for path in ca_paths:
        with suppress(OSError):  # SSLError is a subclass; reported with ca_paths.
            client.load_verify_locations(cafile=path)
    return client


def host_of(server_name: str) -> tuple[str, str]:
    """Returns a server name's host without brackets, and its port or ""."""
    match = re.fullmatch(r"(\[.*\]|[^:]*)(?::(\d+))?", server_name)
    assert match is not None, "the name was checked when the configuration was read"
    return match[1].strip("[]"), match[2] or ""


def handshake_failure(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str | None:
    """Lets the two shake hands in memory. Returns why the client refused, or None."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(limits.HANDSHAKE_ROUNDS):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
            except ssl.SSLError as error:
                return str(error)
        if not ends:
            return None
    return "the handshake doesn't end"


async def _media_problems(config: Config) -> list[Problem]:
    if config.media.store == "disk":
        folder = config.media_folder
        if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
            return [_error(f"media.path: {folder} isn't a folder that can be written to")]
        return []
    store = S3Blobs(open_bucket(**msgspec.structs.asdict(config.media.s3)))
    try:
        await store.remove_unfinished(before_s=0)  # looks for them, and there are none so old
    except (BlobMissing, BlobStoreUnavailable) as error:
        return [_error(f"media.s3: the bucket can't be used: {error}")]
    return []


async def _database_problems(config: Config) -> list[Problem]:
    if config.database.url == "embedded":
        return []
    try:
        database = await Database.open(config.database.url, connections=1)
    except (DatabaseUnavailable, DataRefused, ValueError) as error:
        return [_error(f"database.url: can't connect: {error}")]
    try:
        settings = await load_server_settings(database)
    finally:
        await database.close()
    return list(_server_problems(settings))


def _server_problems(found: ServerSettings) -> Iterator[Problem]:
    if found.version < POSTGRES_LEAST:
        yield _error(
            f"database.url: PostgreSQL {found.version} is too old; {POSTGRES_LEAST} is needed"
        )
    if found.encoding != "UTF8":
        yield _error(f"database.url: the encoding is {found.encoding}; it must be UTF8")
    if not found.may_create:
        yield _error("database.url: the role may not create tables in this database")
    if found.fsync == "off" or found.synchronous_commit == "off":
        yield _warning("database.url: fsync or synchronous_commit is off: a crash loses messages")
