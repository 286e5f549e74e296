"""Every route of the client-server API is one of the specification's operations."""

import importlib
import pkgutil
from collections.abc import Iterator

import homeserver.api
from homeserver.api.http.routes import Route, before_v1_1
from homeserver.rules.spec_versions import supported_versions
from tests.spec.missing_operations import missing_operations
from tests.spec.spec_files import client_operations, needs_spec, server_operations, shape

BESIDE_THE_SPEC = {
    # "When an empty string, the trailing slash on this endpoint is optional": no key at all
    ("GET", "/_matrix/client/v3/rooms/{}/state/{}"),
    ("PUT", "/_matrix/client/v3/rooms/{}/state/{}"),
    # older clients leave the trailing slash out here too
    ("GET", "/_matrix/client/v3/pushrules"),
    ("GET", "/_matrix/client/v3/pushrules/global"),
    # pages, which the text describes ("Fallback" of interactive authentication)
    ("GET", "/_matrix/client/v3/auth/{}/fallback/web"),
    ("POST", "/_matrix/client/v3/auth/{}/fallback/web"),
}


def implemented_routes() -> Iterator[Route]:
    """The routes of all `<Noun>Api` classes. `routes` names methods alone, so it needs none of
    what the constructors take."""
    for found in pkgutil.walk_packages(homeserver.api.__path__, "homeserver.api."):
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            if name.endswith("Api") and value.__module__ == module.__name__:
                yield from value.__new__(value).routes()


@needs_spec
def test_every_route_is_in_the_specification() -> None:
    known = client_operations()
    unknown = {
        (route.method, shape(route.template))
        for route in implemented_routes()
        if route.template.startswith(("/_matrix/client/", "/_matrix/media/"))
        and not route.template.startswith("/_matrix/client/unstable/")
    } - known.keys()
    assert unknown <= BESIDE_THE_SPEC


@needs_spec
def test_every_operation_is_a_route_or_in_the_readme_with_a_reason() -> None:
    """`server_operations` that are missing are found by asking: tests/hostile/peers."""
    routes = {(route.method, shape(route.template)) for route in implemented_routes()}
    operations = {(method, path.rstrip()) for method, path in client_operations()}
    named = missing_operations()
    assert all(named.values()), "each has its reason"
    assert named.keys() - server_operations().keys() == operations - routes


def test_no_two_routes_have_one_method_and_path() -> None:
    routes = [(route.method, shape(route.template)) for route in implemented_routes()]
    assert len(routes) == len(set(routes))
    assert ("POST", "/_matrix/client/v3/createRoom") in routes


@needs_spec
def test_versions_have_the_operations_that_they_added() -> None:
    """A client that reads a version in /versions relies on them."""
    here = {(route.method, shape(route.template)) for route in implemented_routes()}
    versions = supported_versions(here)
    assert "v1.5" in versions, "threads are known by v1.4, references by v1.5"
    missing = {
        key: added
        for key, operation in client_operations().items()
        if (added := operation.described.get("x-addedInMatrixVersion")) is not None
        and f"v{added}" in versions
        and key not in here
    }
    assert missing.keys() <= {("GET", "/.well-known/matrix/policy_server")}, "it is none"


@needs_spec
def test_r0_has_the_operations_that_existed_there() -> None:
    """The specification marks what was added since v1.1; r0 came before."""
    operations = client_operations()
    for route in implemented_routes():
        key = (route.method, shape(route.template))
        below_v3 = ("/_matrix/client/v3/", "/_matrix/media/v3/")
        if not route.template.startswith(below_v3) or key not in operations:
            continue
        is_newer = "x-addedInMatrixVersion" in operations[key].described
        assert (before_v1_1(route) is None) == is_newer, key
