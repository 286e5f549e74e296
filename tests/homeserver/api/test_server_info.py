"""What the server tells of itself."""

from __future__ import annotations

from homeserver.api.server_info import UNSTABLE_FEATURES
from tests.homeserver.api.account_server import VERSIONS, account_server, open_config


async def test_it_tells_what_is_configured_and_true(accounts_url: str) -> None:
    config = open_config(
        public_baseurl="https://hs1.example",
        default_room_version="11",
        federation={"delegated_name": "hs1.example:443"},
        support={"page": "https://hs1.example/help", "contacts": [{"matrix_id": "@a:hs2"}]},
    )
    async with account_server(accounts_url, config=config) as server:
        versions = await server.call("GET", "/_matrix/client/versions")
        assert versions.body == {
            "versions": list(VERSIONS),
            "unstable_features": UNSTABLE_FEATURES,
        }
        discovery = await server.call("GET", "/.well-known/matrix/client")
        assert discovery.body == {
            "m.homeserver": {"base_url": "https://hs1.example"},
            "org.matrix.msc3814": True,
        }
        assert discovery.headers["Access-Control-Allow-Origin"] == "*"
        delegation = await server.call("GET", "/.well-known/matrix/server")
        assert delegation.body == {"m.server": "hs1.example:443"}
        support = await server.call("GET", "/.well-known/matrix/support")
        assert support.body == {
            "contacts": [{"role": "m.role.admin", "matrix_id": "@a:hs2"}],
            "support_page": "https://hs1.example/help",
        }
        assert (await server.call("GET", "/capabilities")).status == 401
        token = (await server.register("alice"))["access_token"]
        capabilities = (await server.call("GET", "/capabilities", token=token)).body["capabilities"]
        assert capabilities["m.profile_fields"] == {"enabled": True}
        assert capabilities["uk.tcpip.msc4133.profile_fields"] == {"enabled": True}
        assert capabilities["m.room_versions"]["default"] == "11"
        assert set(capabilities["m.room_versions"]["available"]) >= {"10", "11", "12"}
        for path in ("/voip/turnServer",):
            assert (await server.call("GET", path, token=token)).body == {}


async def test_discovery_is_404_where_nothing_is_configured(accounts_url: str) -> None:
    async with account_server(accounts_url) as server:
        for kind in ("client", "server", "support"):
            reply = await server.call("GET", f"/.well-known/matrix/{kind}")
            assert (reply.status, reply.body["errcode"]) == (404, "M_NOT_FOUND")


async def test_guests_are_told_that_they_may_change_their_name_alone(accounts_url: str) -> None:
    """What the capability says is what a change is answered with."""
    config = open_config(registration={"enabled": True, "verification": "none", "guests": True})
    async with account_server(accounts_url, config=config) as server:
        guest = (await server.call("POST", "/register?kind=guest", {})).body
        token, user_id = guest["access_token"], guest["user_id"]
        found = (await server.call("GET", "/capabilities", token=token)).body["capabilities"]
        assert found["m.profile_fields"] == {"enabled": True, "allowed": ["displayname"]}
        for key, status in (("displayname", 200), ("avatar_url", 403), ("m.tz", 403)):
            path = f"/profile/{user_id}/{key}"
            reply = await server.call("PUT", path, {key: "mxc://a/b"}, token=token)
            assert reply.status == status
