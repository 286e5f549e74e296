"""The server reads the files that the lab writes."""

import re
import stat
import tomllib
from pathlib import Path

import pytest

from homeserver.config import load_config
from lab.server_files import ensure_signing_key, toml_value, write_configuration
from lab.topology import plan, server_names


def test_the_server_understands_its_configuration(tmp_path: Path) -> None:
    """Names, ports, database and overrides arrive as the plan has them."""
    topology = plan(tmp_path, server_names(3))
    server = topology.server("hs2")
    address = "postgresql://freehold_hs2:p@/freehold_hs2?host=/run/x"
    write_configuration(server, topology, database_url=address, authority_path=tmp_path / "ca.crt")
    config = load_config(server.config_path, environment={})
    assert config.server_name == "hs2"
    assert config.database.url == address
    assert dict(config.federation.address_overrides) == topology.overrides()
    assert config.federation.ca_paths == (str(tmp_path / "ca.crt"),)
    assert not config.federation.allow_private_addresses
    assert [listener.is_tls for listener in config.listeners] == [True, False]
    assert config.registration.enabled
    assert stat.S_IMODE(server.config_path.stat().st_mode) == 0o600


def test_a_signing_key_is_made_once(tmp_path: Path) -> None:
    """A key is the server's identity: a second start keeps it."""
    server = plan(tmp_path, ["hs1"]).servers[0]
    ensure_signing_key(server)
    text = server.signing_key_path.read_text()
    assert re.fullmatch(r"ed25519 a_[0-9a-f]{6} [A-Za-z0-9+/]{43}\n", text)
    assert stat.S_IMODE(server.signing_key_path.stat().st_mode) == 0o600
    ensure_signing_key(server)
    assert server.signing_key_path.read_text() == text


@pytest.mark.parametrize("value", ["plain", 'with "quotes"', "back\\slash", True, False, 7])
def test_values_survive_toml(value: str | bool | int) -> None:
    """Written values are read back unchanged."""
    assert tomllib.loads(f"x = {toml_value(value)}") == {"x": value}


def test_lists_survive_toml() -> None:
    """Lists of texts, too."""
    assert tomllib.loads(f"x = {toml_value(('a', 'b'))}") == {"x": ["a", "b"]}
