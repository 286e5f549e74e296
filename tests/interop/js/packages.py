"""The packages of the scenarios in this folder: installed on first use, from the lock file.

1. The installed packages are good when their stamp equals the hash of the lock file.
2. Two test processes at once are safe: the second waits for the first.
3. No script of a package is run.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
NODE_MAJOR_MIN = 20
_INSTALL_S = 300
_STAMP = HERE / "node_modules" / ".freehold-stamp"


class NodeUnavailable(Exception):
    """Node, or what is to be installed for it, isn't there; the text says why."""


@cache
def ensure_packages() -> str:
    """Install what is missing; the path of Node. Raises NodeUnavailable."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NodeUnavailable("node and npm aren't installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout
    found = re.match(r"v(\d+)\.", version)
    if found is None or int(found[1]) < NODE_MAJOR_MIN:
        raise NodeUnavailable(f"node is {version.strip()}, older than {NODE_MAJOR_MIN}")
    wanted = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    with (HERE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _STAMP.exists() or _STAMP.read_text() != wanted:
            _install(npm)
            _STAMP.write_text(wanted)
    return node


def _install(npm: str) -> None:
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=_INSTALL_S)
    except subprocess.TimeoutExpired as error:
        raise NodeUnavailable("npm ci took too long") from error
    if done.returncode != 0:
        raise NodeUnavailable(f"npm ci failed: {done.stderr.strip()[-300:]}")
