"""What `freehold check` finds."""

from __future__ import annotations

import datetime
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from homeserver import limits
from homeserver.config import Config
from homeserver.config_check import check_config, handshake_failure, host_of
from homeserver.config_media import MediaSettings
from homeserver.signing_keys import create_signing_key
from tests.homeserver.s3_server import s3_server, s3_settings


class Folder:
    """A folder with a signing key, a CA and a certificate for hs1."""

    def __init__(self, path: Path, name: str = "hs1") -> None:
        self.path = path
        create_signing_key(path / "data" / "signing.key", os.urandom)
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(str(path / "ca.pem"))
        self.issue(name)

    def issue(self, name: str, **more: Any) -> None:
        certificate = self.authority.issue_cert(name, **more)
        certificate.cert_chain_pems[0].write_to_path(str(self.path / "cert.pem"))
        certificate.private_key_pem.write_to_path(str(self.path / "key.pem"))

    def config(self, url: str = "embedded", **more: Any) -> Config:
        listener = {
            "address": "127.0.0.1:0",
            "tls_cert_path": str(self.path / "cert.pem"),
            "tls_key_path": str(self.path / "key.pem"),
        }
        table = {
            "server_name": "hs1",
            "public_baseurl": "https://hs1",
            "data_dir": str(self.path / "data"),
            "signing_key_path": str(self.path / "data" / "signing.key"),
            "database": {"url": url},
            "listeners": [listener],
            "federation": {"ca_paths": [str(self.path / "ca.pem")]},
            **more,
        }
        return msgspec.convert(table, Config)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


async def texts(config: Config) -> list[str]:
    problems = await check_config(config)
    return [f"{'error' if one.is_error else 'warning'}: {one.text}" for one in problems]


def assert_found(found: list[str], start: str, part: str = "") -> None:
    assert any(one.startswith(start) and part in one for one in found), found


async def test_a_good_configuration_has_no_problem(folder: Folder, postgres_url: str) -> None:
    found = await texts(folder.config(postgres_url))
    # The tests' database runs without fsync, which is worth a warning.
    assert found == [
        "warning: database.url: fsync or synchronous_commit is off: a crash loses messages"
    ]


async def test_files_of_e_mail_must_be_there(folder: Folder, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("no certificate")
    wrong.chmod(0o644)
    table = {"host": "mail", "sender": "a@b", "user": "u", "tls": "none"}
    missing = {name: str(tmp_path / "none") for name in ("password_path", "templates_path")}
    found = await texts(folder.config(email={**table, **missing, "ca_path": str(wrong)}))
    assert_found(found, "error: email.password_path: there is no file")
    assert_found(found, "error: email.templates_path: there is no folder")
    assert_found(found, "error: email.ca_path: no usable certificates")
    assert_found(found, "warning: email.tls is none")
    found = await texts(folder.config(email={**table, "password_path": str(wrong)}))
    assert_found(found, "error: email.password_path: others can read")
    wrong.chmod(0o600)
    found = await texts(folder.config(email={**table, "tls": "tls", "password_path": str(wrong)}))
    assert not any("email" in one for one in found)


async def test_an_unreachable_database_is_an_error(folder: Folder) -> None:
    found = await texts(folder.config("postgresql://x:y@127.0.0.1:1/z"))
    assert_found(found, "error: database.url: can't connect")
    found = await texts(folder.config("postgresql://x:y@127.0.0.1:port/z"))
    assert_found(found, "error: database.url: can't connect")


async def test_a_port_in_use_is_an_error(folder: Folder) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        listeners = [{"address": address}, {"address": address}]
        found = await texts(folder.config(listeners=listeners))
    assert_found(found, f"error: listeners[0]: can't listen on {address}")
    assert_found(found, f"error: listeners[1]: {address} is there twice")


async def test_an_address_that_isnt_ours_is_an_error(folder: Folder) -> None:
    found = await texts(folder.config(listeners=[{"address": "192.0.2.1:8008"}]))
    assert_found(found, "error: listeners[0]: can't listen on 192.0.2.1:8008")
    assert_found(found, "warning: no listener has a certificate")


async def test_certificate_files_must_be_there_and_fit(folder: Folder) -> None:
    other = trustme.CA().issue_cert("hs1")
    other.private_key_pem.write_to_path(str(folder.path / "key.pem"))
    assert_found(await texts(folder.config()), "error: listeners[0]: the certificate and its key")
    (folder.path / "key.pem").write_text("nonsense")
    assert_found(await texts(folder.config()), "error: listeners[0]: the certificate and its key")
    (folder.path / "key.pem").unlink()
    assert_found(await texts(folder.config()), "error: listeners[0]: there is no file")


async def test_a_certificate_for_another_name_is_found(folder: Folder) -> None:
    folder.issue("hs2")
    start = "warning: listeners[0]: other servers would refuse the certificate for hs1"
    assert_found(await texts(folder.config()), start, "mismatch")
    federation = {"ca_paths": [str(folder.path / "ca.pem")], "delegated_name": "hs2:8448"}
    assert not [one for one in await texts(folder.config(federation=federation)) if start in one]


async def test_an_expired_or_unknown_certificate_is_found(folder: Folder) -> None:
    start = "warning: listeners[0]: other servers would refuse the certificate for hs1"
    assert_found(await texts(folder.config(federation={})), start)
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    folder.issue("hs1", not_before=past, not_after=past + datetime.timedelta(days=1))
    assert_found(await texts(folder.config()), start, "expired")


async def test_the_signing_key_is_looked_at(folder: Folder) -> None:
    key = folder.path / "data" / "signing.key"
    key.chmod(0o644)
    assert_found(await texts(folder.config()), "error: signing_key_path: others can read")
    key.write_text("nonsense")
    assert_found(await texts(folder.config()), "error: signing_key_path:", "no usable signing key")
    key.unlink()
    assert_found(await texts(folder.config()), "warning: signing_key_path: there is no")


async def test_data_dir_must_be_a_folder(folder: Folder) -> None:
    found = await texts(folder.config(data_dir=str(folder.path / "cert.pem")))
    assert_found(found, "error: data_dir:")


async def test_the_store_of_media_is_looked_at(folder: Folder) -> None:
    path = folder.path / "data" / "media"
    path.mkdir()
    assert not [one for one in await texts(folder.config()) if "media" in one]
    path.rmdir()
    path.write_text("a file")
    assert_found(await texts(folder.config()), "error: media.path: ", "isn't a folder")
    with s3_server() as endpoint:
        for bucket, is_there in (("media", True), ("other", False)):
            settings = MediaSettings(store="s3", s3=s3_settings(endpoint, bucket=bucket))
            found = await texts(folder.config(media=msgspec.to_builtins(settings)))
            problems = [one for one in found if one.startswith("error: media.s3: the bucket can't")]
            assert len(problems) == (not is_there), found


async def test_federation_settings_are_looked_at(folder: Folder) -> None:
    federation = {
        "ca_paths": [str(folder.path / "key.pem"), str(folder.path / "missing.pem")],
        "address_overrides": {"hs 2": "127.0.0.1:1", "hs3": "nowhere"},
        "trusted_key_servers": ["@x"],
    }
    found = await texts(folder.config(federation=federation))
    for part in ("key.pem", "missing.pem"):
        assert_found(found, "error: federation.ca_paths:", part)
    assert_found(found, 'error: federation: "hs 2" isn\'t a server name')
    assert_found(found, 'error: federation: "@x" isn\'t a server name')
    assert_found(found, "error: federation.address_overrides.hs3")


async def test_authorities_of_push_gateways_are_looked_at(folder: Folder) -> None:
    paths = [str(folder.path / name) for name in ("ca.pem", "missing.pem")]
    found = await texts(folder.config(push={"ca_paths": paths}))
    assert_found(found, "error: push.ca_paths:", "missing.pem")
    assert not any("ca.pem has no" in one for one in found)


async def test_loose_policies_are_warned_of(folder: Folder) -> None:
    found = await texts(
        folder.config(
            public_baseurl="http://hs1.example",
            registration={"enabled": True, "verification": "none"},
            rate_limits={"enabled": False},
        )
    )
    assert_found(found, "warning: registration is open to everybody")
    assert_found(found, "warning: rate limits are off")
    assert_found(found, "warning: public_baseurl has no TLS")
    assert_found(
        await texts(folder.config(public_baseurl="")), "warning: public_baseurl is missing"
    )


def test_a_server_name_has_a_host_and_perhaps_a_port() -> None:
    assert host_of("hs1") == ("hs1", "")
    assert host_of("hs1:8448") == ("hs1", "8448")
    assert host_of("[::1]:8448") == ("::1", "8448")
    assert host_of("[::1]") == ("::1", "")


def test_a_handshake_has_rounds_to_spare(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound ends what never comes to an end; both sides of a good one are done before it."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(folder.path / "cert.pem", folder.path / "key.pem")
    client = ssl.create_default_context(cafile=str(folder.path / "ca.pem"))
    for rounds, failure in ((limits.HANDSHAKE_ROUNDS // 2, None), (1, "the handshake doesn't end")):
        monkeypatch.setattr(limits, "HANDSHAKE_ROUNDS", rounds)
        assert handshake_failure(server, client, "hs1") == failure
