"""The search for canaries finds what is there, in every shape, and nothing else."""

import base64
import binascii
import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

import lab.canary
from lab.canary import CanaryKind, Searcher, Tally, needles, new_kind

SHAPES: list[tuple[str, Callable[[str], bytes]]] = [
    ("as it is", lambda word: word.encode()),
    ("in JSON", lambda word: json.dumps({"body": f"hello {word}"}).encode()),
    ("utf-16", lambda word: word.encode("utf-16")),
    ("hex", lambda word: binascii.hexlify(word.encode())),
    ("capital hex", lambda word: binascii.hexlify(word.encode()).upper()),
    ("backwards", lambda word: word[::-1].encode()),
    ("base64", lambda word: base64.b64encode(word.encode())),
    ("base64url", lambda word: base64.urlsafe_b64encode(b"??>" + word.encode())),
    ("gzip", lambda word: b"head" + gzip.compress(word.encode() * 3)),
    ("zlib", lambda word: b"head" + zlib.compress(word.encode() * 3)),
    ("percent", lambda word: quote(word).encode()),
    ("small letters", lambda word: word.lower().encode()),
]


def search(data: bytes, kind: CanaryKind) -> int:
    """Returns how often a kind is found in data."""
    tally = Tally()
    Searcher(kind).search_bytes(data, "here", tally)
    assert tally.bytes_searched >= len(data)
    return tally.found(kind.name)


@pytest.mark.parametrize(("name", "shape"), SHAPES, ids=[name for name, _ in SHAPES])
def test_every_shape_is_found(name: str, shape: Callable[[str], bytes]) -> None:
    """Whatever software does to text on its way to a disk, a canary in it is found."""
    kind = new_kind("secret")
    assert search(b"before " + shape(kind.word()) + b" after", kind) >= 1, name


def test_base64_is_found_between_any_neighbours() -> None:
    """All three alignments, with whatever stands before and after."""
    kind = new_kind("secret")
    for before in range(7):
        for after in range(4):
            text = b"\xff" * before + kind.word().encode() + b"\xff" * after
            assert search(base64.b64encode(text), kind) == 1, (before, after)


def test_nothing_is_found_where_nothing_is() -> None:
    """Another kind's canary isn't taken for this one."""
    secret, control = new_kind("secret"), new_kind("control")
    assert search(control.word().encode() * 100, secret) == 0


def test_needles_are_long_enough_not_to_be_met_by_chance() -> None:
    """Each shape has at least 80 bits of the prefix, so a hit is never an accident."""
    assert all(len(needle) >= 15 for needle in needles(new_kind("x").prefix).values())


def test_a_canary_across_the_border_of_two_pieces_is_found_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are read in pieces; borders hide nothing, and nothing counts twice."""
    monkeypatch.setattr(lab.canary, "CHUNK_BYTES", 64)
    kind = new_kind("secret")
    word = kind.word().encode()
    for start in range(130):
        path = tmp_path / "file"
        path.write_bytes(b"x" * start + word + b"y" * 100)
        tally = Tally()
        Searcher(kind).search_file(path, tally)
        assert tally.found("secret") == 1, start
        assert tally.bytes_searched == start + len(word) + 100


def test_a_rotated_log_is_unpacked(tmp_path: Path) -> None:
    """A gzip file is searched as it is and unpacked."""
    kind = new_kind("secret")
    (tmp_path / "server.log.1.gz").write_bytes(gzip.compress(b"line " + kind.word().encode()))
    tally = Tally()
    Searcher(kind).search_folder(tmp_path, tally)
    assert tally.found("secret") == 1
    assert "unpacked" in next(iter(tally.places["secret"]))


def test_a_truncated_gzip_file_does_not_stop_the_search(tmp_path: Path) -> None:
    """A file that is being written is searched as far as it goes."""
    kind = new_kind("secret")
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"x" * 10_000)[:-10])
    (tmp_path / "b.log").write_bytes(kind.word().encode())
    tally = Tally()
    Searcher(kind).search_folder(tmp_path, tally)
    assert tally.found("secret") == 1


def test_empty_space_is_counted_and_passed(tmp_path: Path) -> None:
    """Preallocated files are mostly zeros; what follows them is still found."""
    kind = new_kind("secret")
    (tmp_path / "wal").write_bytes(bytes(lab.canary.CHUNK_BYTES) + kind.word().encode())
    tally = Tally()
    Searcher(kind).search_folder(tmp_path, tally)
    assert tally.found("secret") == 1


def test_findings_of_several_places_add_up() -> None:
    """Merged tallies keep counts and places."""
    kind = new_kind("secret")
    first, second = Tally(), Tally()
    searcher = Searcher(kind)
    searcher.search_bytes(kind.word().encode(), "one", first)
    searcher.search_bytes(kind.word().encode(), "two", second)
    first.merge(second)
    assert first.found("secret") == 2
    assert len(first.places["secret"]) == 2


def test_words_differ_and_share_their_prefix() -> None:
    """Each message has a canary of its own."""
    kind = new_kind("secret")
    words = {kind.word() for _ in range(50)}
    assert len(words) == 50
    assert all(word.startswith(kind.prefix) for word in words)
