"""`.ci/environment`, by which Synapse is installed: what it does when it can't, and two at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab.topology import free_ports
from tests.interop.synapse.servers import ROOT

pytestmark = [pytest.mark.processes]

MISSING = "matrix-synapse==1.0 --hash=sha256:" + "0" * 64 + "\n"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder like the project's, as far as the script needs it; nothing to install."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "environment", folder / ".ci")
    lock_of(folder).parent.mkdir(parents=True)
    lock_of(folder).write_text("")
    return folder


@pytest.fixture(scope="module")
def two_at_once(checkout: Path) -> list[tuple[int, str]]:
    """Return the status and words of two runs that began together."""
    both = [start(checkout), start(checkout)]
    said = [one.communicate()[0] for one in both]
    return [(one.returncode, text) for one, text in zip(both, said, strict=True)]


def lock_of(checkout: Path) -> Path:
    """Return the file that names the packages."""
    return checkout / "tests" / "interop" / "synapse" / "requirements.lock"


def start(checkout: Path, **environment: str) -> subprocess.Popen[str]:
    """Start the script in a folder."""
    return subprocess.Popen(
        [sys.executable, checkout / ".ci" / "environment", "synapse"],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_second_run_waits_for_the_first_and_then_has_nothing_to_do(
    checkout: Path, two_at_once: list[tuple[int, str]]
) -> None:
    """Two workers of the tests begin at once; one of them makes it."""
    assert [status for status, _ in two_at_once] == [0, 0]
    assert sorted(text.count("making .venv-synapse") for _, text in two_at_once) == [0, 1]
    assert (checkout / ".venv-synapse" / "bin" / "python").exists()


@pytest.mark.usefixtures("two_at_once")
def test_an_unreachable_registry_has_a_status_of_its_own(checkout: Path) -> None:
    """The tests are skipped then, and only then."""
    lock_of(checkout).write_text(MISSING)
    port = next(free_ports(0, {0}))
    nowhere = {"PIP_INDEX_URL": f"http://127.0.0.1:{port}/", "PIP_RETRIES": "0"}
    away = start(checkout, **nowhere)
    _, said = away.communicate()
    assert away.returncode == os.EX_UNAVAILABLE, said
    assert "registry within reach" in said


@pytest.mark.usefixtures("two_at_once")
def test_another_failure_is_a_failure(checkout: Path) -> None:
    """A damaged lock file, here; nothing is stamped, so that the next run tries again."""
    lock_of(checkout).write_text("no lock at all")
    broken = start(checkout)
    broken.communicate()
    assert broken.returncode == 1
    assert not (checkout / ".venv-synapse" / ".freehold-stamp").exists()
