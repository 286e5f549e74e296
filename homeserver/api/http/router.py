"""Finds the route of a request: a trie over the segments of the raw path.

Rules:
1. The raw path is split on `/` before anything is decoded, so `%2F` stays within its part.
2. Each parameter is percent-decoded once, strictly: broken escapes stay as they are, bytes that
   aren't UTF-8 and NUL (which PostgreSQL's text can't store) are refused.
3. A literal part wins over a parameter. A trailing slash is an empty last part and matches only a
   template that has a parameter there.
4. An unknown path is 404 M_UNRECOGNIZED; a known one with another method is 405 M_UNRECOGNIZED.

Spec: client-server API, "API standards"; appendices, "Opaque identifiers". The cost is one
dictionary look-up for each part, however many routes there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar
from urllib.parse import unquote

from federation.errors import MatrixError
from homeserver.errors import invalid_param

T = TypeVar("T")


class _Leaf(NamedTuple, Generic[T]):
    names: tuple[str, ...]
    value: T
    template: str


class _Node(Generic[T]):
    __slots__ = ("leaves", "literals", "parameter")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[T]] = {}
        self.parameter: _Node[T] | None = None
        self.leaves: dict[str, _Leaf[T]] = {}


class Match(NamedTuple, Generic[T]):
    """The result of a search: the value that was added, its template, and the decoded
    parameters.
    """

    value: T
    template: str
    params: Mapping[str, str]


class Router(Generic[T]):
    """Values of any type under (method, template)."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, method: str, template: str, value: T) -> None:
        """Adds a value. Raises ValueError if there is already one for this method and path."""
        if not template.startswith("/"):
            raise ValueError(f"a template begins with a slash: {template}")
        node, names = self._root, []
        for part in template.split("/")[1:]:
            if part.startswith("{") and part.endswith("}"):
                names.append(part[1:-1])
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(part, _Node())
        if method in node.leaves:
            raise ValueError(f"two values for {method} {template}")
        node.leaves[method] = _Leaf(tuple(names), value, template)

    def find(self, method: str, path: str) -> Match[T]:
        """Returns the value for a raw path (without query). Raises MatrixError 404, 405 or 400."""
        parts = path.split("/")
        leaves, values = self._leaves(parts)
        leaf = leaves.get(method)
        if leaf is None and method == "HEAD":
            leaf = leaves.get("GET")
        if leaf is None:
            raise MatrixError(
                405,
                "M_UNRECOGNIZED",
                "This path has no such method",
                headers={"Allow": ", ".join(sorted(leaves))},
            )
        if not values:
            return Match(leaf.value, leaf.template, {})
        decoded = [decode_part(value) for value in values]
        return Match(leaf.value, leaf.template, dict(zip(leaf.names, decoded, strict=True)))

    def methods(self, path: str) -> list[str]:
        """Returns the methods of a raw path. Raises MatrixError 404 for an unknown one."""
        return sorted(self._leaves(path.split("/"))[0])

    def _leaves(self, parts: Sequence[str]) -> tuple[dict[str, _Leaf[T]], list[str]]:
        node, values = self._root, []
        for part in parts[1:]:
            if (literal := node.literals.get(part)) is not None:
                node = literal
            elif node.parameter is not None:
                values.append(part)
                node = node.parameter
            else:
                return self._search(parts)
        if node.leaves:
            return node.leaves, values
        return self._search(parts)

    def _search(self, parts: Sequence[str]) -> tuple[dict[str, _Leaf[T]], list[str]]:
        """Searches with backtracking, for paths in which a literal part led to a dead end
        (`/{userId}/{key}`).
        """
        waiting: list[tuple[_Node[T], int, list[str]]] = [(self._root, 1, [])]
        while waiting:
            node, index, values = waiting.pop()
            if index == len(parts):
                if node.leaves:
                    return node.leaves, values
                continue
            if node.parameter is not None:
                waiting.append((node.parameter, index + 1, [*values, parts[index]]))
            if (literal := node.literals.get(parts[index])) is not None:
                waiting.append((literal, index + 1, values))
        raise MatrixError(404, "M_UNRECOGNIZED", "Unrecognized request")


def decode_part(part: str) -> str:
    """Percent-decodes one part of a path. Raises MatrixError 400 for bytes that aren't UTF-8, or
    NUL.
    """
    if "%" in part:
        try:
            part = unquote(part, errors="strict")
        except UnicodeDecodeError as error:
            raise invalid_param("A part of the path isn't UTF-8") from error
    if "\0" in part:
        raise invalid_param("A part of the path has a NUL character")
    return part
