"""Values of the headers that describe media: a first word, and parameters behind it.

Rules:
1. The reader is tolerant: names in any case, quoted or bare values, blanks around them; what it
   can't read ends the parameters. Of several with one name the first counts.
2. A file name is what the sender says, in any script and with any character: its user makes it
   safe.

Spec: client-server API, "Content Repository"; RFC 9110, section 5.6.6; RFC 6266 and RFC 8187 (file
names).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

_PARAMETER: Final = re.compile(
    r"[ \t]*;[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*"
    r'(?:"((?:[^"\\]|\\.)*)"|([^";\s]*))'
)
_ESCAPED: Final = re.compile(r"\\(.)")
_EXTENDED: Final = re.compile(r"(utf-8|iso-8859-1)'[^']*'(.*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HeaderValue:
    """The first word, in lower case, and the parameters, their names in lower case."""

    word: str
    parameters: Mapping[str, str]


def parse_header_value(text: str) -> HeaderValue:
    """Returns the parts of a value; the text before the first `;` is the word, whatever it is."""
    word = text.partition(";")[0]
    parameters: dict[str, str] = {}
    position = len(word.rstrip(" \t"))
    while (match := _PARAMETER.match(text, position)) is not None:
        name, quoted, bare = match.group(1).lower(), match.group(2), match.group(3)
        parameters.setdefault(name, _ESCAPED.sub(r"\1", quoted) if quoted is not None else bare)
        position = match.end()
    return HeaderValue(word.strip(" \t").lower(), parameters)


def parse_file_name(disposition: str) -> str | None:
    """Returns the file name of a Content-Disposition; None where it has none. That in the extended
    form (`filename*`) is preferred (RFC 6266, section 4.3)."""
    parameters = parse_header_value(disposition).parameters
    extended = _EXTENDED.fullmatch(parameters.get("filename*", ""))
    if extended is not None:
        return unquote(extended.group(2), encoding=extended.group(1), errors="replace") or None
    return parameters.get("filename") or None
