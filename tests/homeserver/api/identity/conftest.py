"""A mail server, and a server that uses it, for all tests of a file."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.homeserver.api.identity.mail_world import MailWorld, mail_world
from tests.homeserver.outbound.mail.mail_server import MailServer, mail_server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mails() -> AsyncIterator[MailServer]:
    """Yield the mail server."""
    async with mail_server() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(accounts_url: str, mails: MailServer) -> AsyncIterator[MailWorld]:
    """Yield a server with it; each test has users and addresses of its own."""
    async with mail_world(accounts_url, mails) as running:
        yield running
