"""Words of texts in every script, as searches compare them.

Case, accents and compatibility forms don't matter: "jose" finds "José", "ｊｏｓé" too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
"""Thai and Lao, Burmese, Khmer; Chinese, Japanese, Korean."""


def folded(text: str) -> str:
    """Returns a text without differences of case, accent and width."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", text).casefold()
    parts = unicodedata.normalize("NFD", text)
    bare = "".join(one for one in parts if unicodedata.category(one) != "Mn")
    return unicodedata.normalize("NFC", bare)  # Korean syllables are whole again


def words_of(text: str) -> list[str]:
    """Returns the words of a folded text; a symbol, such as an emoji, is one."""
    words: list[str] = _WORD.findall(text)
    if not text.isascii():
        words += (one for one in text if unicodedata.category(one) == "So")
    return words


def is_unspaced(word: str) -> bool:
    """Returns whether a word has characters of a script that writes no spaces: there it may be
    several."""
    return _UNSPACED.search(word) is not None


def split_scripts(word: str) -> Iterator[tuple[str, bool]]:
    """Yields the parts of a word that write no spaces (True), and those between (False)."""
    end = 0
    for match in _UNSPACED.finditer(word):
        if match.start() > end:
            yield word[end : match.start()], False
        yield match[0], True
        end = match.end()
    if end < len(word):
        yield word[end:], False


def runs(word: str, length: int) -> Iterator[str]:
    """Yields the runs of `length` letters of a word."""
    return (word[i : i + length] for i in range(len(word) - length + 1))
