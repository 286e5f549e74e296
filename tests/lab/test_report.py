"""The report states the findings, and no success where there is none."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from lab.canary import CanaryKind, Searcher, Tally, new_kind
from lab.operator_view import OperatorView, ServerView
from lab.people import KeptAccount
from lab.report import PASSWORD, show_log_ins, show_operators, show_story, verdict
from lab.story import Record, Said
from lab.topology import plan, server_names

SECRET, CONTROL = new_kind("encrypted"), new_kind("control")


@pytest.fixture
def console() -> Console:
    """Returns a console that writes into memory, wide enough for all tables."""
    return Console(file=io.StringIO(), width=200, highlight=False)


def text_of(console: Console) -> str:
    """Returns what was printed."""
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def tally(*words: str) -> Tally:
    """Returns what a search of some words finds."""
    found = Tally()
    Searcher(SECRET, CONTROL).search_bytes(" ".join(words).encode(), "a place", found)
    return found


def make_view(*, leak: bool = False, raw: Tally | None = None, blind: bool = False) -> OperatorView:
    """Returns what operators of one server hold."""
    tables = tally(*([] if blind else [CONTROL.word()]), *([SECRET.word()] if leak else []))
    server = ServerView("hs1", tables=tables, table_count=7, ciphertext_excerpt="AwgAEn[x]")
    return OperatorView([server], raw)


def test_all_is_well_when_the_control_alone_is_found() -> None:
    """No problem is named."""
    assert verdict(make_view(raw=tally(CONTROL.word())), SECRET, CONTROL) == []


def test_a_leak_is_a_problem_with_its_place() -> None:
    """Where it was found is said."""
    problems = verdict(make_view(leak=True), SECRET, CONTROL)
    assert len(problems) == 1
    assert "1 times" in problems[0]
    assert "a place" in problems[0]


@pytest.mark.parametrize("where", ["tables", "raw"])
def test_a_blind_search_is_a_problem(where: str) -> None:
    """Without the control, nothing is proved."""
    view = make_view(blind=True) if where == "tables" else make_view(raw=Tally())
    assert "blind" in verdict(view, SECRET, CONTROL)[0]


def test_the_operators_table_shows_counts_and_ciphertext(console: Console) -> None:
    """Both counts, the stored ciphertext, the raw files; nothing is taken for markup."""
    show_operators(console, make_view(raw=tally(CONTROL.word())), SECRET, CONTROL)
    text = text_of(console)
    assert "0 / 1" in text
    assert "7 tables" in text
    assert "AwgAEn[x]…" in text
    assert "WAL included: 0 / 1" in text


def test_raw_files_out_of_reach_are_said_to_be(console: Console) -> None:
    """The report names the places that were not searched."""
    show_operators(console, make_view(), SECRET, CONTROL)
    assert "out of reach" in text_of(console)


def test_the_story_is_a_table_of_readers(console: Console) -> None:
    """The readers with their times, those that can't read, and edits."""
    record = Record(seconds=3.21)
    said = Said("bob", "$e", "new words", 0.1, edited_from="old words", session_id="s")
    said.read_after_s = {"alice": 0.123}
    said.not_readable_by = ["mallory"]
    record.said.append(said)
    show_story(console, record)
    text = text_of(console)
    assert "new words (edited, was: old words)" in text
    assert "0.12" in text
    assert "–" in text
    assert "1 messages in 1 Megolm sessions, the story took 3.2 s" in text


def test_log_ins_are_printed_with_addresses(console: Console, tmp_path: Path) -> None:
    """A person finds all that a client asks for."""
    topology = plan(tmp_path, server_names(2))
    show_log_ins(console, topology, [KeptAccount("alice", "hs1", "pa[ss]")])
    text = text_of(console)
    assert "@alice:hs1" in text
    assert "pa[ss]" in text
    assert all(server.http_url in text for server in topology.servers)


def test_a_password_in_clear_is_a_problem() -> None:
    """Operators hold hashes of passwords only."""
    view = make_view(raw=tally(CONTROL.word()))
    Searcher(CanaryKind(PASSWORD, "correct horse")).search_bytes(
        b"login: correct horse", "a log", view.servers[0].logs
    )
    assert verdict(view, SECRET, CONTROL) == ["people's passwords were found: a log (plain)"]
