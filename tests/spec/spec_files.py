"""The Matrix specification's OpenAPI files, for tests.

`MATRIX_SPEC` names a checkout of the specification (the folder that has `data/api`). Where it is
unset, tests that need it are skipped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

SPEC = os.environ.get("MATRIX_SPEC", "")
needs_spec = pytest.mark.skipif(not SPEC, reason="MATRIX_SPEC names no checkout of the spec")

_METHODS = frozenset({"get", "put", "post", "delete", "head", "options", "patch"})
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Operation(NamedTuple):
    """One operation: where its OpenAPI file is, and its place in it."""

    file: Path
    path: str
    method: str


def shape(path: str) -> str:
    """A path with all parameters alike, so that their names don't matter."""
    return re.sub(r"\{[^}]*\}", "{}", path)


@cache
def _load(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader=_LOADER)  # a safe loader


def _operations(file: Path) -> Iterator[tuple[tuple[str, str], Operation]]:
    document = _load(file)
    for server in document.get("servers", []):
        base = server["variables"]["basePath"]["default"]
        for path, methods in document.get("paths", {}).items():
            for method in _METHODS & methods.keys():
                yield (method.upper(), shape(base + path)), Operation(file, path, method)


@cache
def client_operations() -> dict[tuple[str, str], Operation]:
    """Operations of the client-server API by method and path with nameless parameters."""
    files = sorted((Path(SPEC) / "data/api/client-server").glob("*.yaml"))
    assert files, f"no OpenAPI files below {SPEC}"
    return dict(found for file in files for found in _operations(file))


def _retrieve(uri: str) -> Resource[Any]:
    path = Path(unquote(urlsplit(uri).path))
    return Resource.from_contents(_load(path), default_specification=DRAFT202012)


_REGISTRY: Registry[Any] = Registry(retrieve=_retrieve)  # type: ignore[call-arg]


def response_errors(method: str, template: str, status: int, body: object) -> list[str]:
    """What of a response doesn't fit the operation's schema; a status that the operation doesn't
    describe is an error too, unless it is one that any operation may have."""
    operation = client_operations()[(method, shape(template))]
    document = _load(operation.file)
    responses = document["paths"][operation.path][operation.method]["responses"]
    if str(status) not in responses:
        return [] if 400 <= status < 600 else [f"status {status} isn't described"]
    if "content" not in responses[str(status)]:
        return []
    pointer = "/".join(
        part.replace("~", "~0").replace("/", "~1")
        for part in (
            "paths",
            operation.path,
            operation.method,
            "responses",
            str(status),
            "content",
            "application/json",
            "schema",
        )
    )
    reference = f"{operation.file.resolve().as_uri()}#/{pointer}"
    validator = Draft202012Validator({"$ref": reference}, registry=_REGISTRY)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(body)]
