"""The aliases in m.room.canonical_alias: new ones, and removal of one.

Spec: client-server API, m.room.canonical_alias; `alt_aliases` is a list of strings.
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.events.canonical_json import JsonObject
from homeserver import errors, limits


def new_aliases(old: JsonObject, new: JsonObject) -> Sequence[str]:
    """Returns the aliases of the content `new` that weren't in `old`, each once. Raises 400
    M_INVALID_PARAM if one is not a string, or if there are too many."""
    before = {alias for alias in _listed(old) if isinstance(alias, str)}
    wanted: dict[str, None] = {}
    for alias in _listed(new):
        if not isinstance(alias, str):
            raise errors.invalid_param("Aliases must be strings, and alt_aliases a list of them")
        if alias not in before:
            wanted[alias] = None
    if len(wanted) > limits.CANONICAL_ALIASES_NEW:
        raise errors.invalid_param(
            f"At most {limits.CANONICAL_ALIASES_NEW} aliases can be added at once"
        )
    return tuple(wanted)


def without_alias(content: JsonObject, alias: str) -> JsonObject | None:
    """Returns the content without an alias; None if the alias isn't in it."""
    alternatives = content.get("alt_aliases")
    listed = alternatives if isinstance(alternatives, list) else []
    if content.get("alias") != alias and alias not in listed:
        return None
    changed = {key: value for key, value in content.items() if key != "alias" or value != alias}
    if alias in listed:
        changed["alt_aliases"] = [other for other in listed if other != alias]
    return changed


def _listed(content: JsonObject) -> list[object]:
    """Returns `alias` and `alt_aliases`, of any type; "" and null unset the alias."""
    alternatives = content.get("alt_aliases")
    if alternatives is not None and not isinstance(alternatives, list):
        alternatives = [alternatives]
    main = content.get("alias")
    return [*([main] if main not in (None, "") else []), *(alternatives or [])]
