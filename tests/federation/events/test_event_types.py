"""Tests of `federation.events.event_types`: the types are the specification's."""

from pathlib import Path

from federation.events import event_types
from tests.spec.spec_files import SPEC, needs_spec

KEYS = {name: value for name, value in vars(event_types).items() if name.endswith("_KEY")}
WITHOUT_SCHEMA = {event_types.ALIASES}  # gone from the current room versions


def types() -> dict[str, str]:
    """Returns the types by their names."""
    found = {name: value for name, value in vars(event_types).items() if name.isupper()}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def test_the_key_of_a_type_has_an_empty_state_key() -> None:
    """A room has such an entry once; its name is its type's."""
    assert len(KEYS) > 10
    for name, key in KEYS.items():
        assert key == (types()[name.removesuffix("_KEY")], "")


@needs_spec
def test_each_type_is_in_the_specification() -> None:
    """A schema of the event, or a definition of the EDU, has its name."""
    data = Path(SPEC) / "data"
    schemas = {path.stem for path in (data / "event-schemas" / "schema").iterdir()}
    edus = (data / "api" / "server-server" / "definitions" / "event-schemas").iterdir()
    known = schemas | {path.stem for path in edus}
    assert {value for value in types().values() if value not in known} == WITHOUT_SCHEMA
