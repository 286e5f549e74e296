"""The commands init and check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from homeserver.cli import main
from homeserver.config import load_config
from homeserver.signing_keys import load_signing_key


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    return result.exit_code, result.output


def test_init_writes_a_configuration_that_can_be_read_and_a_private_key(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    code, output = run("init", "--server-name", "example.org", "--dir", folder)
    assert code == 0, output
    config = load_config(folder / "freehold.toml", {})
    assert config.server_name == "example.org"
    key_path = Path(config.signing_key_path)
    assert key_path.stat().st_mode & 0o777 == 0o600
    assert load_signing_key(key_path).key_id in output
    code, output = run("check", "--config", folder / "freehold.toml")
    assert code == 0, output
    assert "can be run" in output


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    run("init", "--server-name", "example.org", "--dir", tmp_path)
    key = (tmp_path / "data" / "signing.key").read_bytes()
    code, output = run("init", "--server-name", "other.org", "--dir", tmp_path)
    assert code == 1
    assert "exists; nothing was changed" in output
    (tmp_path / "freehold.toml").unlink()
    code, output = run("init", "--server-name", "other.org", "--dir", tmp_path)
    assert (code, (tmp_path / "data" / "signing.key").read_bytes()) == (1, key)


def test_init_refuses_a_bad_name(tmp_path: Path) -> None:
    code, output = run("init", "--server-name", "not a name", "--dir", tmp_path)
    assert code == 2
    assert "--server-name" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["Example.org", "example.org.", "a..b", "1.2.3"])
def test_init_and_check_refuse_a_name_that_nobody_reaches(tmp_path: Path, name: str) -> None:
    code, output = run("init", "--server-name", name, "--dir", tmp_path)
    assert code == 2
    assert name in output
    assert list(tmp_path.iterdir()) == []
    run("init", "--server-name", "example.org", "--dir", tmp_path)
    path = tmp_path / "freehold.toml"
    path.write_text(path.read_text().replace('"example.org"', f'"{name}"'))
    code, output = run("check", "--config", path)
    assert code == 1
    assert f'server_name "{name}": ' in output


def test_check_names_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "freehold.toml"
    path.write_text('servername = "x"')
    code, output = run("check", "--config", path)
    assert code == 2
    assert 'did you mean "server_name"' in output
    path.write_text('server_name = "x"\n[federation]\nca_paths = ["missing.pem"]')
    code, output = run("check", "--config", path)
    assert code == 1
    assert "missing.pem has no usable certificates" in output


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, homeserver.cli; "
        "heavy = {'aiohttp', 'asyncpg', 'asyncio', 'nacl', 'msgspec'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
