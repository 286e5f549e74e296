"""Regular expressions whose matching takes bounded time, whatever the expression.

Rules:
1. A pattern is matched from the beginning of the text, and may end before the text does: `@irc_`
   matches all that begins with it. `$` asks for the end.
2. All ways through the expression are followed at once (Thompson's construction), so a text takes
   at most its length times `PATTERN_STEPS`. A search that tries one way after the other, as
   Python's `re` does, may take years for an expression like `(a+)+$`.
3. Sets of steps that were reached once are kept with their transitions, so that usual texts cost
   one look-up for each character.

Spec: application service API, "Registration" (namespaces).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from homeserver import limits
from homeserver.rules.appservices.pattern_syntax import (
    Alternatives,
    Border,
    Characters,
    Concatenation,
    InvalidPattern,
    Node,
    Repeat,
    parse_pattern,
)

__all__ = ["InvalidPattern", "Pattern"]

_Set: TypeAlias = frozenset[int]


class _Fork(NamedTuple):
    """Continues at several steps at once."""

    targets: tuple[int, ...]


class _Found(NamedTuple):
    """The whole expression has matched."""


_Step: TypeAlias = "Characters | Border | _Fork | _Found"


class Pattern:
    """One compiled expression."""

    def __init__(self, text: str) -> None:
        """Raises InvalidPattern."""
        self.text = text
        self._steps = _Program().compile(parse_pattern(text))
        self._start = self._closure([0], at_start=True)
        self._transitions: dict[tuple[_Set, str], _Set] = {}

    def matches(self, text: str) -> bool:
        """Returns whether the text begins with what the expression describes."""
        now = self._start
        for character in text:
            if self._is_found(now):
                return True
            following = self._transitions.get((now, character))
            now = self._advance(now, character) if following is None else following
            if not now:
                return False
        return self._is_found(self._closure(now, at_end=True, at_start=not text))

    def _is_found(self, steps: _Set) -> bool:
        return len(self._steps) - 1 in steps

    def _advance(self, now: _Set, character: str) -> _Set:
        reached = []
        for number in now:
            step = self._steps[number]
            if isinstance(step, Characters) and step.has(character):
                reached.append(number + 1)
        following = self._closure(reached)
        if len(self._transitions) >= limits.PATTERN_STATES:
            self._transitions.clear()
        self._transitions[(now, character)] = following
        return following

    def _closure(
        self, numbers: list[int] | _Set, *, at_start: bool = False, at_end: bool = False
    ) -> _Set:
        """Returns the steps that are reached without another character."""
        found: set[int] = set()
        waiting = list(numbers)
        while waiting:
            number = waiting.pop()
            if number in found:
                continue
            found.add(number)
            match self._steps[number]:
                case _Fork(targets):
                    waiting.extend(targets)
                case Border(is_end) if at_end if is_end else at_start:
                    waiting.append(number + 1)
        return frozenset(found)


class _Program:
    """Translates a tree into steps; the last one is `_Found`."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []
        self._visits = 0

    def compile(self, node: Node) -> tuple[_Step, ...]:
        self._emit(node)
        return (*self._steps, _Found())

    def _emit(self, node: Node) -> None:
        self._visits += 1  # also bounds the repeats of what has no steps
        if max(self._visits, len(self._steps)) > limits.PATTERN_STEPS:
            raise InvalidPattern(f"needs more than {limits.PATTERN_STEPS} steps")
        match node:
            case Characters() | Border():
                self._steps.append(node)
            case Concatenation(parts):
                for part in parts:
                    self._emit(part)
            case Alternatives(branches):
                self._emit_alternatives(branches)
            case Repeat():
                self._emit_repeat(node)

    def _emit_alternatives(self, branches: tuple[Node, ...]) -> None:
        fork = self._reserve()
        starts, ends = [], []
        for branch in branches:
            starts.append(len(self._steps))
            self._emit(branch)
            ends.append(self._reserve())
        self._steps[fork] = _Fork(tuple(starts))
        for end in ends:
            self._steps[end] = _Fork((len(self._steps),))

    def _emit_repeat(self, repeat: Repeat) -> None:
        for _ in range(repeat.least):
            self._emit(repeat.part)
        if repeat.most is None:
            fork = self._reserve()
            self._emit(repeat.part)
            self._steps.append(_Fork((fork,)))
            self._steps[fork] = _Fork((fork + 1, len(self._steps)))
            return
        forks = []
        for _ in range(repeat.most - repeat.least):
            forks.append(self._reserve())
            self._emit(repeat.part)
        for fork in forks:
            self._steps[fork] = _Fork((fork + 1, len(self._steps)))

    def _reserve(self) -> int:
        """Returns the number of a step that is filled in later."""
        self._steps.append(_Fork(()))
        return len(self._steps) - 1
