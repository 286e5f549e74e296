"""matrix-js-sdk and Element's crypto machine, under Node: between themselves, and with our client.

The scenarios are in `js/`; each file of them is run by Node's own test runner. Without Node 20 they
are skipped, with the reason; in continuous integration (CI=true) they fail.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from e2ee.client import Client
from lab.running import Lab
from tests.interop.conftest import OurEntry
from tests.interop.js.packages import HERE, NodeUnavailable, ensure_packages

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(400),
]
SCENARIOS = sorted(path.name for path in HERE.glob("*.test.mjs"))
SCENARIO_S = 270  # less than the time limit of a test, so that its output is shown
DEADLINE_S = 60


@pytest.fixture(scope="module")
def node() -> str:
    """The path of Node, with all packages installed."""
    try:
        return ensure_packages()
    except NodeUnavailable as problem:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no matrix-js-sdk: {problem}")


def environment(servers: Lab) -> dict[str, str]:
    """Where the scenarios find the servers."""
    return {
        **os.environ,
        "FREEHOLD_HS1": servers.topology.server("hs1").http_url,
        "FREEHOLD_HS2": servers.topology.server("hs2").http_url,
        "NODE_NO_WARNINGS": "1",
    }


@pytest.mark.parametrize("name", SCENARIOS)
async def test_scenario(servers: Lab, node: str, name: str) -> None:
    process = await asyncio.create_subprocess_exec(
        node,
        "--test",
        "--test-reporter=spec",
        name,
        cwd=HERE,
        env=environment(servers),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    said: list[bytes] = []
    try:
        async with asyncio.timeout(SCENARIO_S):
            async for line in process.stdout:
                said.append(line)
            await process.wait()
    except TimeoutError:
        said.append(f"the scenario did not end within {SCENARIO_S} s".encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, b"".join(said).decode()


@asynccontextmanager
async def echo(servers: Lab, node: str) -> AsyncIterator[str]:
    """A user of matrix-js-sdk on hs2 who says back what it reads; its user ID."""
    process = await asyncio.create_subprocess_exec(
        node,
        "echo.mjs",
        cwd=HERE,
        env=environment(servers),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


def bodies(client: Client, room_id: str) -> list[str]:
    """What our client can read, in order."""
    return [message.body for message in client.timeline(room_id) if message.is_readable]


async def test_our_client_and_the_rust_machine_read_each_other(
    servers: Lab, node: str, ours: OurEntry
) -> None:
    olga = await ours("olga")
    async with echo(servers, node) as user_id:
        room_id = await olga.create_room(name="sealed", invite=[user_id])
        await olga.until(lambda _: user_id in olga.members(room_id), deadline_s=DEADLINE_S)
        for text in ("one", "two"):
            await olga.send_text(room_id, text)
            await olga.until(
                lambda _, text=text: f"echo of {text}" in bodies(olga, room_id),  # type: ignore[misc]
                deadline_s=DEADLINE_S,
            )
        assert bodies(olga, room_id) == ["one", "echo of one", "two", "echo of two"]
