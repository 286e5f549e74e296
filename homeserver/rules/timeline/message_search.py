"""The search for messages: what is indexed, what a search asks for, and how well a text fits.

Rules:
1. Messages, names of rooms and their topics are searched, by the text that people read.
2. Each word of the search must be a word of the text, or its beginning; short words must be whole
   (`SEARCH_PREFIX_CHARACTERS`).
3. Scripts that write no spaces have no words to see: there each single character and each pair is
   a term, and a run of the search must stand in the text as it is.
4. The terms only narrow the search; the text of the event, as its reader may see it, decides.

Spec: client-server API, "Server Side Search".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec

from federation.events.event_types import MESSAGE, NAME, TOPIC
from homeserver import limits
from homeserver.rules.words import folded, runs, split_scripts, words_of

SEARCHED_TYPES = (MESSAGE, NAME, TOPIC)
"""The event types that are indexed."""

KEYS = {MESSAGE: "content.body", NAME: "content.name", TOPIC: "content.topic"}
"""What a search calls the text of each type."""


class MessageQuery(msgspec.Struct, frozen=True):
    """What is looked for: folded words, and runs of scripts that write no spaces."""

    words: tuple[str, ...]
    unspaced: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Returns whether nothing can be found by it."""
        return not self.words and not self.unspaced

    @property
    def highlights(self) -> list[str]:
        """Returns the words, as clients may mark them."""
        return [*self.words, *self.unspaced]

    @property
    def exact_terms(self) -> list[str]:
        """Returns the terms that an entry of the index must have."""
        pairs = (term for run in self.unspaced for term in _needed(run))
        return list(dict.fromkeys((*(one for one in self.words if not _is_prefix(one)), *pairs)))

    @property
    def prefixes(self) -> list[str]:
        """Returns beginnings, of each of which it must have a term."""
        return [word for word in self.words if _is_prefix(word)]


def parse_query(text: str) -> MessageQuery:
    """Parses what a client searches for."""
    words: dict[str, None] = {}
    unspaced: dict[str, None] = {}
    for part, is_unspaced in islice(_parts(text), limits.SEARCH_WORDS):
        (unspaced if is_unspaced else words)[part] = None
    return MessageQuery(tuple(words), tuple(unspaced))


def searched_text(event_type: str, content: Mapping[str, Any], *, is_state: bool) -> str:
    """Returns the text of an event that is searched; "" if it has none."""
    if is_state == (event_type == MESSAGE) or event_type not in KEYS:
        return ""
    text = content.get(KEYS[event_type].removeprefix("content."))
    found = text if isinstance(text, str) else ""
    if event_type == TOPIC:
        found = f"{found}\n{_plain_topic(content.get('m.topic'))}"
    return found[: limits.SEARCH_TEXT_CHARACTERS]


def terms_of(text: str) -> list[str]:
    """Returns the terms under which a text is indexed."""
    if text.isascii():
        lowered = folded(text[: limits.SEARCH_TEXT_CHARACTERS])
        whole = dict.fromkeys(words_of(lowered))
        cut = {word[: limits.SEARCH_WORD_CHARACTERS]: None for word in whole}
        return list(cut)[: limits.SEARCH_TERMS]
    terms: dict[str, None] = {}
    for part, is_unspaced in _parts(text):
        found = (*part, *runs(part, 2)) if is_unspaced else (part,)
        terms.update(dict.fromkeys(found))
        if len(terms) >= limits.SEARCH_TERMS:
            break
    return list(terms)[: limits.SEARCH_TERMS]


def rank(text: str, query: MessageQuery) -> float:
    """Returns how well a text fits: above 0, higher is better; 0 if it doesn't."""
    counts = Counter(_parts(text))
    score = 0.0
    for word in query.words:
        whole = counts[word, False]
        begun = 0
        if _is_prefix(word):
            begun = (
                sum(number for (part, _), number in counts.items() if part.startswith(word)) - whole
            )
        if not whole and not begun:
            return 0.0
        score += whole + 0.5 * begun
    for run in query.unspaced:
        found = sum(
            number * part.count(run)
            for (part, is_unspaced), number in counts.items()
            if is_unspaced
        )
        if not found:
            return 0.0
        score += found
    return score / (1.0 + math.log(1 + counts.total()))


def _is_prefix(word: str) -> bool:
    return len(word) >= limits.SEARCH_PREFIX_CHARACTERS


def _needed(run: str) -> Iterator[str]:
    return iter((run,)) if len(run) == 1 else runs(run, 2)


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """Yields words, and runs of unspaced scripts (True)."""
    for word in words_of(folded(text[: limits.SEARCH_TEXT_CHARACTERS])):
        for part, is_unspaced in split_scripts(word):
            yield (part if is_unspaced else part[: limits.SEARCH_WORD_CHARACTERS]), is_unspaced


def _plain_topic(block: object) -> str:
    """Returns the plain text of a topic that has several representations."""
    representations = block.get("m.text") if isinstance(block, dict) else None
    for one in representations if isinstance(representations, list) else ():
        if isinstance(one, dict) and one.get("mimetype", "text/plain") == "text/plain":
            body = one.get("body")
            return body if isinstance(body, str) else ""
    return ""
