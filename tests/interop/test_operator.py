"""The operator's commands, as processes beside a running server, seen by matrix-nio."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from pathlib import Path
from typing import Any

import nio as sdk
import pytest

from lab.running import Lab
from tests.interop.conftest import NioEntry
from tests.interop.nio_person import DEADLINE_S, PASSWORD, NioPerson, good

pytestmark = [pytest.mark.processes]
FREEHOLD = Path(sys.executable).with_name("freehold")
COMMAND_S = 60
LOOK_AGAIN_S = 0.05


async def freehold(servers: Lab, *words: str, typed: str = "") -> Any:
    """Runs a command on hs1's configuration, with --json; its first line."""
    path = servers.topology.server("hs1").config_path
    process = await asyncio.create_subprocess_exec(
        FREEHOLD,
        *(*words[:2], "--json", "--config", str(path), *words[2:]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await asyncio.wait_for(process.communicate(typed.encode()), COMMAND_S)
    assert process.returncode == 0, complained.decode()
    return json.loads(said.splitlines()[0])


async def until_told(person: NioPerson, code: str) -> None:
    """Asks until the server answers by a code; "" for a good answer. nio forgets its token when it
    is logged out softly, which other clients don't."""
    token = person.client.access_token
    async with asyncio.timeout(DEADLINE_S):
        while True:
            person.client.access_token = token
            answer = await person.client.whoami()
            told = answer.status_code if isinstance(answer, sdk.ErrorResponse) else ""
            if told == code:
                person.client.access_token = token
                return
            await asyncio.sleep(LOOK_AGAIN_S)


async def test_an_added_user_is_locked_suspended_and_ended(
    servers: Lab, nio: NioEntry, tmp_path: Path
) -> None:
    nina = await nio("nina", "hs2")
    name = f"olaf-{secrets.token_hex(3)}"
    olaf_id = (await freehold(servers, "user", "add", name, typed=f"{PASSWORD}\n"))["user_id"]
    olaf = NioPerson(servers.topology.server("hs1").http_url, tmp_path)
    await olaf.login(olaf_id)
    room_id = str(good(await nina.client.room_create(invite=[olaf_id])).room_id)
    await olaf.until_invited(room_id)
    good(await olaf.client.join(room_id))
    await olaf.until_joined(room_id)
    await nina.until_joined(room_id)
    await nina.until(lambda: olaf_id in nina.client.rooms[room_id].users)
    await until_told(olaf, "")
    await freehold(servers, "user", "lock", olaf_id)
    await until_told(olaf, "M_USER_LOCKED")
    await freehold(servers, "user", "unlock", olaf_id)
    await until_told(olaf, "")
    await freehold(servers, "user", "suspend", olaf_id)
    shown = await freehold(servers, "user", "show", olaf_id)
    assert (shown["suspended"], shown["locked"], len(shown["devices"])) == (True, False, 1)
    body = {"msgtype": "m.text", "body": "x"}
    refused = await olaf.client.room_send(room_id, "m.room.message", body)
    assert isinstance(refused, sdk.ErrorResponse)
    assert refused.status_code == "M_USER_SUSPENDED"
    await freehold(servers, "user", "deactivate", olaf_id, "--erase")
    await until_told(olaf, "M_UNKNOWN_TOKEN")
    await nina.until(lambda: olaf_id not in nina.client.rooms[room_id].users)
    await olaf.close()
