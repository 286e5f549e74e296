"""Texts of events in a column that can't store NUL."""

import pytest

from homeserver.storage.database import Database
from homeserver.storage.text import array_text, escape, unescape

TEXTS = [
    "",
    "plain",
    "\0",
    "\x1b",
    "\x1b0",
    "\x1b1",
    "a\0b\x1bc",
    "\x1b\0",
    "\0\x1b",
    "\x1b\x1b1\0" + "0",
    "ü\U0001f600\x7f",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_read_as_it_was_written(text: str) -> None:
    assert unescape(escape(text)) == text


def test_different_texts_have_different_stored_forms_without_nul() -> None:
    stored = [escape(text) for text in TEXTS]
    assert len(set(stored)) == len(TEXTS)
    assert not any("\0" in one for one in stored)


def test_a_text_without_control_characters_is_stored_as_it_is() -> None:
    assert escape("m.room.member") == "m.room.member"
    assert unescape("@0:x1") == "@0:x1"


async def test_the_database_takes_each_stored_form(database: Database) -> None:
    stored = [escape(text) for text in TEXTS]
    assert await database.fetchval("SELECT $1::text[]", stored) == stored


@pytest.mark.parametrize(
    "texts",
    [
        [],
        [""],
        ["plain", ""],
        ["NULL", "null"],
        ['"', "\\", '\\"', "{,}", " a ", "ü\U0001f600", "'"],
    ],
)
async def test_an_array_is_read_as_it_was_written(database: Database, texts: list[str]) -> None:
    assert await database.fetchval("SELECT $1::text::text[]", array_text(texts)) == texts


async def test_numbers_are_read_from_their_texts(database: Database) -> None:
    numbers = await database.fetchval("SELECT $1::text::smallint[]", array_text(["0", "2"]))
    assert numbers == [0, 2]
