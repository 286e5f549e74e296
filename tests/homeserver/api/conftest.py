"""Fixtures of tests over HTTP."""

from __future__ import annotations

import pytest

from local_postgres import EmbeddedCluster
from tests.conftest import BackgroundLoop


@pytest.fixture(scope="session")
def accounts_url(postgres_cluster: EmbeddedCluster, background_loop: BackgroundLoop) -> str:
    """The address of one database for all tests of accounts; `account_server` empties it."""
    return background_loop.run(postgres_cluster.ensure_database("accounts_tests"))
