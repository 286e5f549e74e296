"""Canary words, and the search for them in bytes: the proof that a message was nowhere in clear.

Rules:
1. All canaries of one kind share a random prefix; the search is for the prefix, in every shape that
   software gives to bytes: plain, UTF-16, hex, reversed, base64 and base64url at each alignment,
   percent and JSON escapes; also inside gzip and zlib streams.
2. A search proves nothing unless it would have found something: a control of the same shape, in a
   room without encryption, must be found by the same search in the same places.
3. The bytes searched are counted and reported.
"""

import base64
import binascii
import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
PREFIX_LETTERS = 16  # 80 random bits
WORD_LETTERS = 8
_BASE64_GROUP_BYTES = 3
CHUNK_BYTES = 8 * 1024 * 1024
STREAM_INPUT_BYTES_MAX = 1024 * 1024
STREAM_BYTES_MAX = 16 * 1024 * 1024
GZIP_MAGIC = b"\x1f\x8b\x08"
MAGICS = re.compile(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]")


@dataclass(frozen=True, slots=True)
class CanaryKind:
    """The prefix shared by canaries of one kind, as `encrypted` or `control`."""

    name: str
    prefix: str

    def word(self, random: Callable[[int], bytes] = os.urandom) -> str:
        """Returns a new canary of this kind: prefix and letters of its own."""
        return self.prefix + random_letters(WORD_LETTERS, random)


def new_kind(name: str, random: Callable[[int], bytes] = os.urandom) -> CanaryKind:
    """Returns a kind with a new random prefix."""
    return CanaryKind(name, random_letters(PREFIX_LETTERS, random))


def random_letters(count: int, random: Callable[[int], bytes]) -> str:
    """Returns random letters and digits, five bits each."""
    return "".join(ALPHABET[byte & 31] for byte in random(count))


def needles(text: str) -> Mapping[str, bytes]:
    """Returns the shapes of a text to search for, by name.

    In base64 the first and last letters at each alignment depend on the neighbours and are left
    out.
    """
    raw = text.encode()
    shapes = {
        "plain": raw,
        "utf-16-le": text.encode("utf-16-le"),
        "utf-16-be": text.encode("utf-16-be"),
        "hex": binascii.hexlify(raw),
        "HEX": binascii.hexlify(raw).upper(),
        "hex of utf-16": binascii.hexlify(text.encode("utf-16-le")),
        "reversed": raw[::-1],
        "lower case": text.lower().encode(),
        "percent": "".join(f"%{byte:02X}" for byte in raw).encode(),
        "json escapes": "".join(f"\\u{byte:04x}" for byte in raw).encode(),
    }
    for shift in range(_BASE64_GROUP_BYTES):
        encoded = base64.b64encode(b"\0" * shift + raw).rstrip(b"=")
        first = -(-shift * 8 // 6)
        last = len(encoded) - (1 if (len(raw) + shift) % 3 else 0)
        body = encoded[first:last]
        shapes[f"base64 at {shift}"] = body
        shapes[f"base64url at {shift}"] = body.translate(bytes.maketrans(b"+/", b"-_"))
    different = {needle: shape for shape, needle in reversed(shapes.items())}
    return {shape: needle for needle, shape in different.items()}


@dataclass(slots=True)
class Tally:
    """The results of a search: bytes searched, and hits by kind and shape."""

    bytes_searched: int = 0
    files: int = 0
    hits: dict[str, int] = field(default_factory=dict)
    places: dict[str, set[str]] = field(default_factory=dict)

    def add(self, kind: str, count: int, place: str) -> None:
        """Counts hits of a kind in a place."""
        self.hits[kind] = self.hits.get(kind, 0) + count
        self.places.setdefault(kind, set()).add(place)

    def found(self, kind: str) -> int:
        """Returns the number of hits of a kind."""
        return self.hits.get(kind, 0)

    def merge(self, other: "Tally") -> None:
        """Adds another search's findings to these."""
        self.bytes_searched += other.bytes_searched
        self.files += other.files
        for kind, count in other.hits.items():
            self.hits[kind] = self.hits.get(kind, 0) + count
            self.places.setdefault(kind, set()).update(other.places[kind])


class Searcher:
    """Searches bytes for canaries of given kinds; one can search many places."""

    def __init__(self, *kinds: CanaryKind) -> None:
        """Prepares the needles of all kinds."""
        self._needles = [
            (kind.name, shape, needle)
            for kind in kinds
            for shape, needle in needles(kind.prefix).items()
        ]
        self._overlap = max(len(needle) for _, _, needle in self._needles) - 1

    def search_bytes(self, data: bytes, place: str, tally: Tally, *, depth: int = 0) -> None:
        """Searches a piece of data, and what is compressed in it, and counts into the tally."""
        tally.bytes_searched += len(data)
        for kind, shape, needle in self._needles:
            count = data.count(needle)
            if count:
                tally.add(kind, count, f"{place} ({shape})")
        if depth == 0:
            for stream in compressed_streams(data):
                self.search_bytes(stream, f"{place}, inside a compressed stream", tally, depth=1)

    def search_file(self, path: Path, tally: Tally) -> None:
        """Searches a file in pieces that overlap, so that nothing hides on a border.

        A file that vanished meanwhile (PostgreSQL recycles its log) is passed over.
        """
        try:
            with path.open("rb") as file:
                tally.files += 1
                self._search_pieces(iter(lambda: file.read(CHUNK_BYTES), b""), path, tally)
            if is_gzip(path):
                with gzip.open(path, "rb") as file:
                    inside = path.with_name(path.name + " (unpacked)")
                    self._search_pieces(iter(lambda: file.read(CHUNK_BYTES), b""), inside, tally)
        except (FileNotFoundError, EOFError, zlib.error, gzip.BadGzipFile):
            return

    def search_folder(self, folder: Path, tally: Tally) -> None:
        """Searches every file below a folder; links are not followed."""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                self.search_file(path, tally)

    def _search_pieces(self, pieces: Iterator[bytes], path: Path, tally: Tally) -> None:
        carried = b""
        for piece in pieces:
            tally.bytes_searched += len(piece)
            if not piece.rstrip(b"\0"):  # preallocated, never written
                carried = b""
                continue
            data = carried + piece
            for kind, shape, needle in self._needles:
                # A needle wholly in the carried part was counted with the piece before.
                start = max(0, len(carried) - len(needle) + 1)
                count = data.count(needle, start)
                if count:
                    tally.add(kind, count, f"{path} ({shape})")
            carried = data[-self._overlap :]


def is_gzip(path: Path) -> bool:
    """Returns whether a file starts as gzip does."""
    with path.open("rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def compressed_streams(data: bytes) -> Iterator[bytes]:
    """Yields what gzip and zlib streams anywhere in the data hold, bounded."""
    for start in MAGICS.finditer(data):
        window = 31 if start[0] == GZIP_MAGIC else 15
        yield from unpack(data[start.start() : start.start() + STREAM_INPUT_BYTES_MAX], window)


def unpack(data: bytes, window: int) -> Iterator[bytes]:
    """Yields the content of one stream, as far as it is sound."""
    try:
        yield zlib.decompressobj(window).decompress(data, STREAM_BYTES_MAX)
    except zlib.error:
        return
