"""docs/configuration.md names every key, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec

from homeserver.config import Config, RateLimitSettings

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def keys(shape: Any, prefix: str = "") -> Iterator[str]:
    """Every key of the configuration as the document writes it."""
    for field in msgspec.structs.fields(shape):
        name = f"{prefix}{field.encode_name}"
        inner = get_args(field.type)[0] if get_origin(field.type) is tuple else field.type
        if not (isinstance(inner, type) and issubclass(inner, msgspec.Struct)):
            yield name
        elif prefix == "rate_limits.":
            yield "rate_limits.<kind>"
        else:
            yield from keys(inner, f"{name}[]." if inner is not field.type else f"{name}.")


def test_every_key_is_in_the_document_and_no_other() -> None:
    rows = [line.split("|")[1] for line in DOCUMENT.read_text().splitlines() if "|" in line]
    written = {key for row in rows for key in re.findall(r"`([^`]+)`", row)}
    assert written == set(keys(Config))


def test_every_limit_is_in_the_document() -> None:
    text = DOCUMENT.read_text()
    kinds = [field.name for field in msgspec.structs.fields(RateLimitSettings)]
    assert all(f"`{kind}`" in text for kind in kinds if kind != "enabled")
