"""Reads the registration files of application services.

Rules:
1. Each path is of a file, or of a folder whose `*.yaml` and `*.yml` files count, by their names. A
   folder may be empty; a file must be there.
2. All problems of all files are reported together, each with its file; then nothing of them counts.

Spec: application service API, "Registration".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from federation.events.ids import ServerName
from homeserver import limits
from homeserver.rules.appservices.registrations import (
    AppService,
    AppServices,
    find_repeats,
    parse_registration,
)

_ENDINGS = (".yaml", ".yml")


class RegistrationsInvalid(Exception):
    """The registrations can't be used; `problems` has a sentence for each reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def read_registrations(paths: Sequence[str], server_name: ServerName) -> AppServices:
    """Returns the application services that files register. Raises RegistrationsInvalid."""
    services: list[tuple[str, AppService]] = []
    problems: list[str] = []
    for path in _files(paths):
        try:
            data = _read(path)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
            problems.append(f"{path}: {_reason(error)}")
            continue
        service, more = parse_registration(data, str(path), server_name)
        problems += more
        if service is not None:
            services.append((str(path), service))
    problems += find_repeats(services)
    if problems:
        raise RegistrationsInvalid(problems)
    return AppServices([service for _, service in services])


def _files(paths: Sequence[str]) -> Iterator[Path]:
    for path in dict.fromkeys(map(Path, paths)):
        if path.is_dir():
            yield from sorted(one for one in path.iterdir() if one.suffix in _ENDINGS)
        else:
            yield path


def _read(path: Path) -> object:
    with path.open("rb") as file:
        content = file.read(limits.REGISTRATION_FILE_BYTES + 1)
    if len(content) > limits.REGISTRATION_FILE_BYTES:
        raise ValueError(f"is larger than {limits.REGISTRATION_FILE_BYTES} bytes")
    return yaml.safe_load(content.decode())


def _reason(error: Exception) -> str:
    match error:
        case OSError():
            return f"can't be read: {error.strerror}"
        case UnicodeDecodeError():
            return "isn't UTF-8"
        case yaml.YAMLError():
            return "isn't YAML: " + " ".join(str(error).split())
        case RecursionError():
            return "isn't YAML: nested too deeply"
    return str(error)
