"""The services of media over the tests' database."""

from pathlib import Path

import pytest

from homeserver.storage.database import Database
from tests.homeserver.media_world import MediaWorld
from tests.homeserver.storage.conftest import database

__all__ = ["database"]


@pytest.fixture
def world(database: Database, tmp_path: Path) -> MediaWorld:
    """Services over an empty database and an empty folder."""
    return MediaWorld(database, tmp_path / "media")
