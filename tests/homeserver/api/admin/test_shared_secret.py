"""`/_synapse/admin/v1/register`, as programs call it."""

from __future__ import annotations

import hmac
from typing import Any

from tests.homeserver.api.account_server import AccountServer, account_server, open_config

PATH, SECRET = "/_synapse/admin/v1/register", "0123456789abcdef"


async def body(server: AccountServer, **more: Any) -> dict[str, Any]:
    """A signed request for @anna:hs1."""
    nonce = (await server.call("GET", PATH)).body["nonce"]
    message = f"{nonce}\0anna\0pa ß\0notadmin".encode()
    mac = hmac.new(SECRET.encode(), message, "sha1").hexdigest()
    return {"nonce": nonce, "username": "anna", "password": "pa ß", "mac": mac, **more}


async def test_a_program_registers_where_people_can_not(accounts_url: str) -> None:
    config = open_config(registration={"shared_secret": SECRET})
    async with account_server(accounts_url, config=config) as server:
        made = await server.call("POST", PATH, await body(server, user_type=None))
        assert made.status == 200
        assert made.body["user_id"] == "@anna:hs1"
        assert made.body["home_server"] == "hs1"
        who = await server.call("GET", "/account/whoami", token=made.body["access_token"])
        assert who.body["device_id"] == made.body["device_id"]
        assert (await server.log_in("anna", "pa ß")).status == 200
        again = await server.call("POST", PATH, await body(server))
        assert (again.status, again.body["errcode"]) == (400, "M_USER_IN_USE")
        forged = await server.call("POST", PATH, await body(server, admin=True))
        assert (forged.status, forged.body["errcode"]) == (403, "M_FORBIDDEN")
        missing = await server.call("POST", PATH, {})
        assert (missing.status, missing.body["errcode"]) == (400, "M_MISSING_PARAM")
        bad = await server.call("POST", PATH, await body(server, admin="yes"))
        assert (bad.status, bad.body["errcode"]) == (400, "M_BAD_JSON")


async def test_without_a_secret_there_is_no_such_endpoint(accounts_url: str) -> None:
    async with account_server(accounts_url, config=open_config()) as server:
        for method, sent in (("GET", None), ("POST", {})):
            reply = await server.call(method, PATH, sent)
            assert (reply.status, reply.body["errcode"]) == (404, "M_UNRECOGNIZED")


async def test_nonces_are_asked_for_at_a_limited_rate(accounts_url: str) -> None:
    config = open_config(
        registration={"shared_secret": SECRET},
        rate_limits={"reads": {"per_second": 0.001, "burst": 2}},
    )
    async with account_server(accounts_url, config=config) as server:
        assert [(await server.call("GET", PATH)).status for _ in range(3)] == [200, 200, 429]
