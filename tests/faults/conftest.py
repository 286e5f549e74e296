"""Fixtures of the fault tests: a folder for a module's servers, and people at them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.faults.person import Person
from tests.faults.servers import Cluster

NewPerson = Callable[[str, str], Awaitable[Person]]


@pytest.fixture(scope="module")
def module_folder() -> Iterator[Path]:
    """Yield a folder that other accounts can pass through (the database's)."""
    folder = Path(tempfile.mkdtemp(prefix="fh-faults-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    """Return a counter: each test's people have names of their own."""
    return count(1)


@pytest_asyncio.fixture(loop_scope="module")
async def new_person(cluster: Cluster, numbers: Iterator[int]) -> AsyncIterator[NewPerson]:
    """Yield what registers a person: a name and a server."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def register(name: str, server: str) -> Person:
            person = Person(session, cluster.url(server))
            await person.register(f"{name}{next(numbers)}")
            return person

        yield register


@pytest_asyncio.fixture(loop_scope="module")
async def all_up_again(cluster: Cluster) -> AsyncIterator[None]:
    """Start what a failed test left down: it fails alone."""
    yield
    await cluster.start_missing()
