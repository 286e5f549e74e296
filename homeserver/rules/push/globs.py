"""Glob patterns of push rules, matched in bounded time.

Rules:
1. `*` stands for any characters, `?` for exactly one; case doesn't matter.
2. A pattern is cut at its `*`. Each inner part is taken at its first place: a later one is never
   better, so nothing is tried twice, and the cost is that of finding each part once.
3. A pattern for words matches any part of a text that starts and ends at a word boundary: the start
   or end of the text, or beside a character that isn't a letter of ASCII, a digit or `_`.

Spec: appendices, "Glob-style matching"; client-server API, "Push Rules", `event_match`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

_WORD_START, _WORD_END = r"(?<![A-Za-z0-9_])", r"(?![A-Za-z0-9_])"


class Glob(msgspec.Struct, frozen=True):
    """A compiled pattern. Texts are given in lower case. `parts` are expressions of a fixed length;
    each of `literals` is in every text that matches."""

    parts: tuple[re.Pattern[str], ...]
    literals: tuple[str, ...]
    length: int

    def cost(self, text: str) -> int:
        """Returns an upper bound of the comparisons of characters that `match` makes."""
        is_possible = all(one in text for one in self.literals)
        return len(text) * (self.length if is_possible else 1) + 1

    def match(self, text: str) -> bool:
        """Returns whether the text matches."""
        if any(one not in text for one in self.literals):
            return False
        position = 0
        for part in self.parts:
            found = part.search(text, position)
            if found is None:
                return False
            position = found.end()
        return True


def compile_glob(pattern: str, *, words: bool) -> Glob:
    """Compiles a pattern. `words`: it matches parts of a text at word boundaries; else it matches
    a whole text."""
    return _compile([part.split("?") for part in pattern.lower().split("*")], words=words)


def compile_words(text: str) -> Glob:
    """Compiles a text in which `*` and `?` stand for themselves, to be found at word boundaries."""
    return _compile([[text.lower()]], words=True)


def _compile(parts: Sequence[Sequence[str]], *, words: bool) -> Glob:
    """`parts` are those between the `*`, each as the texts between its `?`."""
    expressions = [".".join(map(re.escape, part)) for part in parts]
    expressions[0] = (_WORD_START if words else r"\A") + expressions[0]
    expressions[-1] += _WORD_END if words else r"\Z"
    texts = sorted({text for part in parts for text in part if text})
    length = sum(len(text) + 1 for part in parts for text in part)
    return Glob(tuple(re.compile(one, re.DOTALL) for one in expressions), tuple(texts), length)
