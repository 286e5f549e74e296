"""The search for users by name or ID: what is indexed, what a term asks for, and the order.

Rules:
1. Case, accents and compatibility forms don't matter: "jose" finds "José", "ｊｏｓé" too.
2. A text is cut into words. Each word has as tokens its first letter, its first two letters and
   all its runs of three letters; so a term is found anywhere in a word, a short one at its
   beginning.
3. Scripts that write no spaces have no beginnings of words: there, one and two letters are tokens
   at any place.
4. The tokens only narrow the search: each word of the term must then stand in the name or the
   localpart.
5. A term that begins with @ is the beginning of a user ID.

Spec: client-server API, "User directory".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from federation.events.ids import UserId
from homeserver import limits
from homeserver.rules.words import folded, is_unspaced, runs, words_of


class DirectoryUser(msgspec.Struct, frozen=True):
    """A user as the directory shows them; "" for what isn't set."""

    user_id: UserId
    display_name: str = ""
    avatar_url: str = ""


class SearchTerm(msgspec.Struct, frozen=True):
    """A parsed term: the beginning of a user ID, or words with the tokens that they need."""

    id_prefix: str
    words: tuple[str, ...]
    tokens: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Returns whether nobody can be found by it."""
        return not self.id_prefix and not self.words


def parse_term(text: str) -> SearchTerm:
    """Parses the term of a search."""
    text = text.strip()
    if text.startswith("@"):
        return SearchTerm(text.lower(), (), ())
    words = tuple(_words(text))
    tokens = dict.fromkeys(token for word in words for token in _needed(word))
    return SearchTerm("", words, tuple(tokens))


def tokens_of(user: DirectoryUser) -> list[str]:
    """Returns the tokens under which a user is indexed."""
    return list(dict.fromkeys(token for word in _words(_text(user)) for token in _tokens(word)))


def ranked(users: Sequence[DirectoryUser], term: SearchTerm, own: str) -> list[DirectoryUser]:
    """Returns the users that a term finds, the best first: whole names, beginnings of words, users
    of the server `own`, users with a name."""
    found = [(rank, user) for user in users if (rank := _rank(user, term, own)) is not None]
    found.sort(key=lambda pair: (pair[0], len(pair[1].display_name), pair[1].user_id))
    return [user for _, user in found]


def _rank(user: DirectoryUser, term: SearchTerm, own: str) -> tuple[bool, ...] | None:
    """Returns the place in the order, lowest first; None if the term doesn't find the user."""
    words = list(_words(_text(user)))
    if any(not any(_stands_in(part, word) for word in words) for part in term.words):
        return None
    wanted, of_name = list(term.words), len(words) - len(list(_words(_localpart(user.user_id))))
    is_whole = bool(wanted) and wanted in (words[:of_name], words[of_name:])
    begins = all(any(word.startswith(part) for word in words) for part in term.words)
    is_own = user.user_id.endswith(":" + own)
    return not is_whole, not begins, not is_own, not user.display_name


def _text(user: DirectoryUser) -> str:
    """Returns what is indexed. A character may be folded into as many as 18: the result is cut,
    too."""
    name = folded(user.display_name[: limits.USER_SEARCH_NAME_CHARACTERS])
    return f"{name[: limits.USER_SEARCH_FOLDED_CHARACTERS]} {_localpart(user.user_id)}"


def _localpart(user_id: str) -> str:
    return user_id[1:].partition(":")[0]


def _words(text: str) -> list[str]:
    return words_of(folded(text))


def _tokens(word: str) -> Iterator[str]:
    yield "^" + word[:1]
    yield "^" + word[:2]
    yield from runs(word, limits.USER_SEARCH_RUN)
    if is_unspaced(word):
        yield from word
        yield from runs(word, 2)


def _stands_in(part: str, word: str) -> bool:
    return part in word if _is_anywhere(part) else word.startswith(part)


def _is_anywhere(part: str) -> bool:
    """Returns whether a part of a term is looked for within words, too."""
    return len(part) >= limits.USER_SEARCH_RUN or is_unspaced(part)


def _needed(word: str) -> tuple[str, ...]:
    if len(word) >= limits.USER_SEARCH_RUN:
        return tuple(runs(word, limits.USER_SEARCH_RUN))
    return (word,) if _is_anywhere(word) else ("^" + word,)
