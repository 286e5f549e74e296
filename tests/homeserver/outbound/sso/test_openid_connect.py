"""What a provider of OpenID Connect may take and say."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from homeserver import limits
from homeserver.outbound.sso import cas
from homeserver.outbound.sso.openid_connect import BOUNDS, OpenIdConnect, ProviderFailed
from homeserver.outbound.web_client import WebAnswer, WebBounds, WebRequest
from homeserver.rules.sso.providers import SsoProvider

ISSUER = "https://id.example"
PROVIDER = SsoProvider(
    id="a", name="A", kind="oidc", url=ISSUER, client_id="matrix", client_secret="s"
)
KEY = RSAKey.generate_key(2048, {"kid": "k"})


class StillClock:
    """Time stands."""

    def __init__(self) -> None:
        self.time_s = time.time()

    def now_ms(self) -> int:
        return int(self.time_s * 1000)

    def monotonic_s(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        self.time_s += seconds


class ScriptedWeb:
    """Answers by path, within bounds that a test looks at."""

    def __init__(self, claims: dict[str, Any]) -> None:
        self.claims, self.bounds = claims, set[WebBounds]()

    async def request(self, request: WebRequest, bounds: WebBounds) -> WebAnswer:
        self.bounds.add(bounds)
        answers: dict[str, Any] = {
            "/.well-known/openid-configuration": {
                "issuer": ISSUER,
                "authorization_endpoint": f"{ISSUER}/authorize?x=1",
                "token_endpoint": f"{ISSUER}/token",
                "jwks_uri": f"{ISSUER}/keys",
                "token_endpoint_auth_methods_supported": ["client_secret_post"],
            },
            "/keys": KeySet([KEY]).as_dict(private=False),
            "/token": {"id_token": jwt.encode({"alg": "RS256", "kid": "k"}, self.claims, KEY)},
        }
        found = answers[request.url.path]
        return WebAnswer(request.url, 200, {}, orjson.dumps(found))


def made(late_s: int) -> tuple[OpenIdConnect, ScriptedWeb]:
    clock = StillClock()
    now = int(clock.time_s)
    claims = {
        "iss": ISSUER,
        "aud": "matrix",
        "sub": "anna",
        "nonce": "n",
        "iat": now - 600,
        "exp": now - late_s,
    }
    web = ScriptedWeb(claims)
    return OpenIdConnect(PROVIDER, cast(Any, web), clock, callback="https://hs1/back"), web


async def test_a_clock_may_be_wrong_by_a_little() -> None:
    client, web = made(limits.SSO_CLOCK_SKEW_S - 1)
    assert (await client.identify("code", "n", "v")).subject == "anna"
    assert web.bounds == {WebBounds(limits.SSO_S, limits.SSO_BYTES)} == {BOUNDS}
    late, _ = made(limits.SSO_CLOCK_SKEW_S + 1)
    with pytest.raises(ProviderFailed):
        await late.identify("code", "n", "v")


async def test_an_entrance_with_a_query_of_its_own() -> None:
    client, _ = made(0)
    entrance = await client.entrance("s", "n", "v", again=False)
    assert entrance.startswith(f"{ISSUER}/authorize?x=1&response")
    assert "prompt=" not in entrance
    assert "&prompt=login" in await client.entrance("s", "n", "v", again=True)


async def test_cas_has_the_same_bounds() -> None:
    assert replace(cas.BOUNDS) == BOUNDS
