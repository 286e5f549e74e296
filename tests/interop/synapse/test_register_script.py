"""Synapse's own `register_new_matrix_user` makes accounts here, as many programs' set-ups do."""

from __future__ import annotations

import asyncio

import pytest

from tests.homeserver.api.account_server import AccountServer, account_server, open_config
from tests.interop.synapse.servers import SYNAPSE_PYTHON

SECRET, MODULE = "a secret of programs", "synapse._scripts.register_new_matrix_user"
SCRIPT_S = 120


async def run(server: AccountServer, name: str, kind: str, secret: str = SECRET) -> tuple[int, str]:
    """Runs the script; its status and what it said."""
    process = await asyncio.create_subprocess_exec(
        str(SYNAPSE_PYTHON),
        *("-m", MODULE, "-u", name, "-p", "its password", kind, "-k", secret, server.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), SCRIPT_S)
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.mark.usefixtures("synapse_version")
async def test_the_script_makes_users_and_administrators(postgres_url: str) -> None:
    config = open_config(registration={"shared_secret": SECRET})
    async with account_server(postgres_url, config=config) as server:
        status, said = await run(server, "anna", "--no-admin")
        assert (status, "Success!" in said) == (0, True)
        for name, kind in (("anna", "--no-admin"), ("root", "--admin")):
            if name == "root":
                assert (await run(server, name, kind))[0] == 0
            token = (await server.log_in(name, "its password")).body["access_token"]
            told = (await server.call("GET", "/capabilities", token=token)).body["capabilities"]
            assert ("m.account_moderation" in told) == (kind == "--admin")
        status, said = await run(server, "anna", "--no-admin")
        assert (status, "taken" in said) == (1, True)
        status, said = await run(server, "bert", "--no-admin", "another secret")
        assert (status, "HMAC" in said) == (1, True)
