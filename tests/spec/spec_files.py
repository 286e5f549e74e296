"""The Matrix specification's OpenAPI files, for tests.

`MATRIX_SPEC` names a checkout of the specification (the folder that has `data/api`). Where it is
unset, tests that need it are skipped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
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
_ERROR = Draft202012Validator(
    {
        "type": "object",
        "properties": {
            "errcode": {"type": "string", "pattern": r"^[A-Z0-9_.]+$"},
            "error": {"type": "string"},
            "retry_after_ms": {"type": "integer"},
        },
        "required": ["errcode"],
    }
)
"""Any error: client-server API, "Standard error response"; server-server API, "Errors"."""


class Operation(NamedTuple):
    """One operation: where its OpenAPI file is, and its place in it."""

    file: Path
    path: str
    method: str

    @property
    def described(self) -> Mapping[str, Any]:
        """The operation's description."""
        described: Mapping[str, Any] = _load(self.file)["paths"][self.path][self.method]
        return described


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


def _api(name: str) -> dict[tuple[str, str], Operation]:
    files = sorted((Path(SPEC) / "data/api" / name).glob("*.yaml"))
    assert files, f"no OpenAPI files of the {name} API below {SPEC}"
    return dict(found for file in files for found in _operations(file))


@cache
def client_operations() -> dict[tuple[str, str], Operation]:
    """Operations of the client-server API by method and path with nameless parameters."""
    return _api("client-server")


@cache
def server_operations() -> dict[tuple[str, str], Operation]:
    """Operations of the server-server API by method and path with nameless parameters."""
    return _api("server-server")


@cache
def gateway_operations() -> dict[tuple[str, str], Operation]:
    """Operations of the push gateway API, likewise."""
    return _api("push-gateway")


@cache
def service_operations() -> dict[tuple[str, str], Operation]:
    """Operations of the application service API by method and path with nameless parameters."""
    return _api("application-service")


@cache
def _by_length() -> dict[tuple[str, int], list[tuple[tuple[str, ...], Operation]]]:
    """All operations by method and number of parts; those with a literal part first."""
    found: dict[tuple[str, int], list[tuple[tuple[str, ...], Operation]]] = {}
    known = {
        **client_operations(),
        **server_operations(),
        **gateway_operations(),
        **service_operations(),
    }
    for (method, path), operation in known.items():
        parts = tuple(path.split("/"))
        found.setdefault((method, len(parts)), []).append((parts, operation))
    for candidates in found.values():
        candidates.sort(key=lambda entry: entry[0].count("{}"))
    return found


def find_operation(method: str, target: str) -> Operation | None:
    """The operation of a request by its target as on the wire; None if the specification has none.

    A path with an empty state key may leave out its trailing slash (client-server API,
    `GET /rooms/{roomId}/state/{eventType}/{stateKey}`)."""
    parts = tuple(target.partition("?")[0].split("/"))
    for candidate in (parts, (*parts, "")):
        for template, operation in _by_length().get((method, len(candidate)), ()):
            if all(known in ("{}", part) for known, part in zip(template, candidate, strict=True)):
                return operation
    return None


def _retrieve(uri: str) -> Resource[Any]:
    path = Path(unquote(urlsplit(uri).path))
    return Resource.from_contents(_load(path), default_specification=DRAFT202012)


_REGISTRY: Registry[Any] = Registry(retrieve=_retrieve)  # type: ignore[call-arg]


@cache
def _validator(operation: Operation, *place: str) -> Draft202012Validator:
    """The schema at a place below an operation."""
    parts = ("paths", operation.path, operation.method, *place)
    pointer = "/".join(part.replace("~", "~0").replace("/", "~1") for part in parts)
    reference = f"{operation.file.resolve().as_uri()}#/{pointer}"
    return Draft202012Validator({"$ref": reference}, registry=_REGISTRY)


def _errors(validator: Draft202012Validator, value: object) -> list[str]:
    """A value that fits several of the schemas of a `oneOf` is none: the specification has a
    content and an event as such alternatives, and every event is an object."""
    return [
        f"{error.json_path}: {error.message[:300]}"
        for error in validator.iter_errors(value)
        if not (error.validator == "oneOf" and "is valid under each of" in error.message)
    ]


def answer_errors(operation: Operation, status: int, body: object) -> list[str]:
    """What of an answer doesn't fit the operation's schema. A status that the operation doesn't
    describe is an error too, unless it is a refusal, which any operation may have; a refusal has
    an error code."""
    responses = operation.described["responses"]
    if str(status) not in responses:
        if 400 <= status < 600:
            return _errors(_ERROR, body)
        return [f"status {status} isn't described"]
    content = responses[str(status)].get("content", {})
    if "application/json" not in content or "schema" not in content["application/json"]:
        return []
    place = ("responses", str(status), "content", "application/json", "schema")
    errors = _errors(_validator(operation, *place), body)
    if status == 401 and not _errors(_ERROR, body):
        return []  # what it describes is user-interactive auth; the token may be wrong as well
    return errors


def request_errors(operation: Operation, body: object) -> list[str]:
    """What of a request's body doesn't fit the operation's schema; a body where none is described
    is an error too, unless it is an empty object."""
    described = operation.described.get("requestBody")
    if described is None:
        return ["the operation has no body"] if body not in (None, {}) else []
    if body is None:
        return ["the body is missing"] if described.get("required") else []
    place = ("requestBody", "content", "application/json", "schema")
    return _errors(_validator(operation, *place), body)


def response_errors(method: str, template: str, status: int, body: object) -> list[str]:
    """As `answer_errors`, by method and template of a path."""
    return answer_errors(_operation(method, template), status, body)


def body_errors(method: str, template: str, body: object) -> list[str]:
    """As `request_errors`, by method and template of a path."""
    return request_errors(_operation(method, template), body)


def _operation(method: str, template: str) -> Operation:
    key = (method, shape(template))
    return client_operations().get(key) or server_operations()[key]
