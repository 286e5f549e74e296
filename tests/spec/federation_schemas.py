"""The schemas of the server-server API: what we answer to other servers, and what we send them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jsonschema import Draft202012Validator

from tests.spec.spec_files import _REGISTRY, SPEC, Operation, _load, _operations, shape


@cache
def federation_operations() -> dict[tuple[str, str], Operation]:
    """Operations of the server-server API by method and path with nameless parameters."""
    files = sorted((Path(SPEC) / "data/api/server-server").glob("*.yaml"))
    assert files, f"no OpenAPI files below {SPEC}"
    return dict(found for file in files for found in _operations(file))


def answer_errors(method: str, template: str, status: int, body: object) -> list[str]:
    """What of an answer to another server doesn't fit the operation's schema."""
    return _errors(method, template, ("responses", str(status)), body)


def request_errors(method: str, template: str, body: object) -> list[str]:
    """What of a request's body doesn't fit the operation's schema."""
    return _errors(method, template, ("requestBody",), body)


def _errors(method: str, template: str, part: tuple[str, ...], body: object) -> list[str]:
    operation = federation_operations()[(method, shape(template))]
    described = _load(operation.file)["paths"][operation.path][operation.method]
    for name in part:
        described = described[name]
    schema = ("content", "application/json", "schema")
    places = ("paths", operation.path, operation.method, *part, *schema)
    pointer = "/".join(place.replace("~", "~0").replace("/", "~1") for place in places)
    reference = f"{operation.file.resolve().as_uri()}#/{pointer}"
    validator = Draft202012Validator({"$ref": reference}, registry=_REGISTRY)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(body)]
