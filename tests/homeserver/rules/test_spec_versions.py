"""Versions of the specification are named by the operations that they brought."""

import pytest

from homeserver.rules.spec_versions import OPERATIONS, supported_versions
from tests.spec.spec_files import client_operations, needs_spec, shape
from tests.spec.test_routes import implemented_routes

EXEMPT = {
    ("GET", "/.well-known/matrix/policy_server"): "this server is no policy server",
    ("GET", "/_matrix/client/v1/auth_metadata"): "this server is no OAuth 2.0 provider",
    ("GET", "/_matrix/client/v3/login/sso/redirect"): "single sign-on is a setting",
    ("GET", "/_matrix/client/v3/login/sso/redirect/{}"): "single sign-on is a setting",
}


def keys(*versions: str) -> list[tuple[str, str]]:
    """The operations of some versions, with their parameters named."""
    every = [one.replace("{}", "{name}") for version in versions for one in OPERATIONS[version]]
    return [(method, path) for method, _, path in (one.partition(" ") for one in every)]


def test_a_version_is_named_with_all_before_it() -> None:
    """One that lacks an operation ends the list."""
    assert supported_versions([]) == ()
    assert supported_versions(keys("v1.1")) == ("v1.1",)
    assert supported_versions(keys(*OPERATIONS)) == tuple(OPERATIONS)
    without = [version for version in OPERATIONS if version != "v1.6"]
    assert supported_versions(keys(*without))[-1] == "v1.5"
    for missing in keys("v1.3"):
        rest = [one for one in keys(*OPERATIONS) if one != missing]
        assert supported_versions(rest)[-1] == "v1.2", missing


@needs_spec
def test_the_operations_are_those_that_the_specification_marks() -> None:
    """It marks those of v1.3's relations and of v1.19 by their files alone."""
    marked = {
        (method, path, f"v{since}")
        for (method, path), operation in client_operations().items()
        if (since := operation.described.get("x-addedInMatrixVersion"))
    }
    listed = {
        (*one.split(" ", 1), version) for version, found in OPERATIONS.items() for one in found
    }
    unmarked = {one for one in listed if "/relations/" in one[1] or "/mutual_rooms" in one[1]}
    exempt = {one for one in marked if one[:2] in EXEMPT}
    assert listed - unmarked == marked - exempt


@needs_spec
@pytest.mark.parametrize("version", OPERATIONS)
def test_operations_are_of_the_specification(version: str) -> None:
    """So that none is asked for that there can't be."""
    known = client_operations()
    for one in OPERATIONS[version]:
        method, path = one.split(" ", 1)
        assert (method, path) in known


def test_this_server_names_what_its_routes_allow() -> None:
    """The relations that v1.3 and v1.4 brought are there."""
    routes = [(route.method, route.template) for route in implemented_routes()]
    assert "v1.1" in supported_versions(routes)
    known = {f"{method} {shape(path)}" for method, path in routes}
    assert OPERATIONS["v1.3"] | OPERATIONS["v1.4"] <= known


def test_no_version_depends_on_single_sign_on() -> None:
    """Its endpoints are there with a provider alone: without one, `/versions` named nothing."""
    routes = [(route.method, route.template) for route in implemented_routes()]
    rest = [one for one in routes if "/login/sso/" not in one[1]]
    assert rest != routes
    assert supported_versions(rest) == supported_versions(routes) != ()
