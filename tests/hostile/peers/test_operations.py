"""Which operations of the server-server API are there, as another server finds out."""

from __future__ import annotations

import pytest

from tests.hostile.peers.conftest import World
from tests.spec.missing_operations import missing_operations
from tests.spec.spec_files import needs_spec, server_operations

pytestmark = pytest.mark.asyncio(loop_scope="module")


@needs_spec
async def test_every_operation_is_there_or_in_the_readme(world: World) -> None:
    """One that isn't there is answered by 404 M_UNRECOGNIZED, whoever asks."""
    missing = set()
    for method, path in server_operations():
        reply = await world.evil.request(method, path.replace("{}", "x"), {})
        if reply.status == 404 and reply.errcode == "M_UNRECOGNIZED":
            missing.add((method, path))
    assert missing == missing_operations().keys() & server_operations().keys()
