r"""The regular expressions of namespaces, parsed to a tree.

They are POSIX extended regular expressions, with the notations of other dialects that registrations
use: `\d`, `\w`, `\s`, groups without a number or with a name, and lazy repeats (which match the
same texts). What only a search that goes back could match is refused: references to groups, and
looks ahead or behind.

Spec: application service API, "Registration" (namespaces).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import hexdigits, punctuation
from typing import Final, TypeAlias

from homeserver import limits


class InvalidPattern(Exception):
    """The text isn't a regular expression that can be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Characters:
    """One character: within one of `ranges`, or of one of `kinds`; any other if `is_negated`."""

    ranges: tuple[tuple[str, str], ...] = ()
    kinds: tuple[str, ...] = ()
    is_negated: bool = False

    def has(self, character: str) -> bool:
        """Returns whether the character is one of them."""
        found = any(first <= character <= last for first, last in self.ranges) or any(
            is_of_kind(character, kind) for kind in self.kinds
        )
        return found is not self.is_negated


@dataclass(frozen=True, slots=True)
class Concatenation:
    """One part after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Alternatives:
    """One of the branches."""

    branches: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A part, at least `least` and at most `most` times (None: any number)."""

    part: Node
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Border:
    """The beginning of the text, or its end."""

    is_end: bool


Node: TypeAlias = Characters | Concatenation | Alternatives | Repeat | Border

ANY: Final = Characters(is_negated=True)
_SIGNS: Final[Mapping[str, tuple[int, int | None]]] = {
    "*": (0, None),
    "+": (1, None),
    "?": (0, 1),
}
_LETTERS: Final = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
_POSIX: Final = {
    "alpha": "alpha",
    "digit": "d",
    "alnum": "alnum",
    "upper": "upper",
    "lower": "lower",
    "space": "s",
    "punct": "punct",
    "xdigit": "xdigit",
}


def is_of_kind(character: str, kind: str) -> bool:
    """Returns whether a character is of a kind: a letter of a backslash, or a POSIX class."""
    match kind:
        case "d":
            return character.isdecimal()
        case "w":
            return character.isalnum() or character == "_"
        case "s":
            return character.isspace()
        case "D" | "W" | "S":
            return not is_of_kind(character, kind.lower())
        case "alpha":
            return character.isalpha()
        case "alnum":
            return character.isalnum()
        case "upper":
            return character.isupper()
        case "lower":
            return character.islower()
        case "xdigit":
            return character in hexdigits
    return character in punctuation


def parse_pattern(text: str) -> Node:
    """Returns the tree of a regular expression. Raises InvalidPattern."""
    if len(text) > limits.PATTERN_CHARACTERS:
        raise InvalidPattern(f"is longer than {limits.PATTERN_CHARACTERS} characters")
    return _Parser(text).parse()


class _Parser:
    """Reads the text once, from left to right."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth = text, 0, 0

    def parse(self) -> Node:
        found = self._alternatives()
        if self._at < len(self._text):
            raise InvalidPattern("has a closing parenthesis too many")
        return found

    def _next(self) -> str:
        """Returns the next character, "" at the end."""
        return self._text[self._at : self._at + 1]

    def _take(self, expected: str) -> bool:
        """Reads a text if it is next."""
        if not self._text.startswith(expected, self._at):
            return False
        self._at += len(expected)
        return True

    def _alternatives(self) -> Node:
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        return branches[0] if len(branches) == 1 else Alternatives(tuple(branches))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while (character := self._next()) and character not in "|)":
            parts.append(self._repeated())
        return parts[0] if len(parts) == 1 else Concatenation(tuple(parts))

    def _repeated(self) -> Node:
        if self._counts() is not None:
            raise InvalidPattern("has nothing that a repeat could repeat")
        part = self._part()
        while (counts := self._counts()) is not None:
            if self._take("+"):
                raise InvalidPattern("has a possessive repeat, which isn't supported")
            self._take("?")  # a lazy repeat matches the same texts
            if isinstance(part, Repeat | Border):
                raise InvalidPattern("repeats what can't be repeated")
            part = Repeat(part, *counts)
        return part

    def _counts(self) -> tuple[int, int | None] | None:
        """Reads a repeat's counts; None if there is no repeat here."""
        for sign, known in _SIGNS.items():
            if self._take(sign):
                return known
        end = self._text.find("}", self._at)
        if self._next() != "{" or end < 0:
            return None
        least, comma, most = self._text[self._at + 1 : end].partition(",")
        if not _is_count(least or "0") or not _is_count(most or "0") or not (least or comma):
            return None  # a brace that stands for itself
        self._at = end + 1
        counts = int(least or 0), (int(most) if most else None if comma else int(least))
        if max(counts[0], counts[1] or 0) > limits.PATTERN_REPEATS:
            raise InvalidPattern(f"repeats more than {limits.PATTERN_REPEATS} times")
        if counts[1] is not None and counts[0] > counts[1]:
            raise InvalidPattern("repeats at least more often than at most")
        return counts

    def _part(self) -> Node:
        character = self._next()
        self._at += 1
        match character:
            case "(":
                return self._group()
            case "[":
                return self._class()
            case ".":
                return ANY
            case "^" | "$":
                return Border(character == "$")
            case "\\":
                return self._escape()
        return _only(character)

    def _group(self) -> Node:
        if self._take("?"):
            if self._take("P<"):
                self._at = self._text.find(">", self._at) + 1 or len(self._text)
            elif not self._take(":"):
                raise InvalidPattern("has a group with ?, which isn't supported")
        self._depth += 1
        if self._depth > limits.PATTERN_DEPTH:
            raise InvalidPattern(f"has more than {limits.PATTERN_DEPTH} groups in each other")
        found = self._alternatives()
        self._depth -= 1
        if not self._take(")"):
            raise InvalidPattern("has a group without its end")
        return Concatenation((found,))

    def _escape(self) -> Characters:
        character = self._next()
        self._at += 1
        if character in tuple("dwsDWS"):
            return Characters(kinds=(character,))
        return _only(self._escaped(character))

    def _escaped(self, character: str) -> str:
        """Returns the character that an escape stands for."""
        if character in _LETTERS:
            return _LETTERS[character]
        if not character or character.isalnum():
            raise InvalidPattern(f"has \\{character}, which isn't supported")
        return character

    def _class(self) -> Characters:
        is_negated = self._take("^")
        ranges: list[tuple[str, str]] = []
        kinds: list[str] = []
        is_first = True
        while is_first or self._next() != "]":
            if not self._next():
                raise InvalidPattern("has [ without its ]")
            is_first = False
            if kind := self._kind():
                kinds.append(kind)
                continue
            first = last = self._member()
            if self._next() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                last = self._member()
            if first > last:
                raise InvalidPattern("has a range whose end is before its beginning")
            ranges.append((first, last))
        self._at += 1
        return Characters(tuple(ranges), tuple(kinds), is_negated)

    def _kind(self) -> str:
        """Reads a kind of characters in a class; "" if there is none here."""
        for name, kind in _POSIX.items():
            if self._take(f"[:{name}:]"):
                return kind
        for letter in "dwsDWS":
            if self._take(f"\\{letter}"):
                return letter
        return ""

    def _member(self) -> str:
        character = self._next()
        self._at += 1
        if character != "\\":
            return character
        character = self._next()
        self._at += 1
        return self._escaped(character)


def _only(character: str) -> Characters:
    return Characters(((character, character),))


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(2**31))
