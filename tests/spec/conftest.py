"""Fixtures for tests against the specification."""

from tests.homeserver.conftest import shared_database_url

__all__ = ["shared_database_url"]
