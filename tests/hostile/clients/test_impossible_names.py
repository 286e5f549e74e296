"""Server names that no server can have: nobody is asked, nothing is left behind.

Spec: appendices, "Server Name".
"""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest

from tests.hostile.clients.conftest import Scene

pytestmark = pytest.mark.asyncio(loop_scope="module")

LABEL = "b" * 64
IMPOSSIBLE = ["..", "a..b", ".a", "a.", LABEL, f"a.{LABEL}.c", "a:0", "[:::]", "a." * 127 + "b"]


async def test_key_queries_about_them_are_answered_at_once(scene: Scene) -> None:
    server, alice = scene.server, scene.alice
    users: dict[str, object] = {f"@x:{name}": [] for name in IMPOSSIBLE if len(name) < 250}
    found = await server.ok("POST", "/keys/query", {"device_keys": users}, by=alice)
    assert found["device_keys"] == {}
    assert set(found["failures"]) == {user.partition(":")[2] for user in users}


@pytest.mark.parametrize("name", IMPOSSIBLE)
async def test_no_question_about_them_is_an_error_of_ours(scene: Scene, name: str) -> None:
    server, alice = scene.server, scene.alice
    room_id = await server.create_room(alice)
    user, alias = quote(f"@x:{name}"), quote(f"#x:{name}")
    asked = [
        ("GET", f"/profile/{user}", None),
        ("GET", f"/directory/room/{alias}", None),
        ("POST", f"/join/{alias}", {}),
        ("POST", f"/join/{quote('!x:gone.example')}?via={quote(name)}", {}),
        ("POST", f"/rooms/{quote(room_id)}/invite", {"user_id": f"@x:{name}"}),
        ("GET", f"/_matrix/key/v2/query/{quote(name)}", None),
    ]
    for method, path, body in asked:
        reply = await server.call(method, path, body, by=alice)
        assert 400 <= reply.status < 600, (path, reply)
        assert reply.status != 500, (path, reply)
        assert reply.errcode.startswith("M_"), (path, reply)
    header = f'X-Matrix origin="{name}",key="ed25519:1",sig="AAAA"'
    for path in ("/_matrix/federation/v1/send/1", "/_matrix/federation/v1/query/profile"):
        method = "PUT" if "send" in path else "GET"
        reply = await server.call(method, path, headers={"Authorization": header})
        assert (reply.status, reply.errcode) == (401, "M_UNAUTHORIZED"), reply


async def test_messages_to_1500_of_them_leave_no_task(scene: Scene) -> None:
    server, alice = scene.server, scene.alice
    messages = {f"@x:{number}..b": {"*": {"n": number}} for number in range(1_500)}
    before = await server.rows()
    path = "/sendToDevice/m.test/impossible"
    await server.ok("PUT", path, {"messages": messages}, by=alice)
    after = await server.rows()
    changed = {name for name, rows in after.items() if rows != before[name]}
    assert not {name for name in changed if "remote" in name or "outbound" in name}, changed
    names = [task.get_name() for task in asyncio.all_tasks()]
    assert not [name for name in names if name.startswith("outbox") and name.endswith("..b")]
