"""A provider by OpenID Connect: authorization code flow with PKCE.

Rules:
1. The provider's description must be that of the issuer in the configuration; its keys are cached,
   and read again for a token with another key, at most every `SSO_KEYS_S_LEAST` seconds.
2. A token counts if a key of the provider signed it, by an asymmetric algorithm, for this client,
   in its time, and with the nonce of this log-in: one that was made for another log-in doesn't.

Spec: OpenID Connect Core 1.0; OpenID Connect Discovery 1.0; RFC 7636.
"""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode
from hashlib import sha256
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import orjson
import yarl
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jwt import JWTClaimsRegistry

from federation.ports import Clock
from homeserver import limits
from homeserver.outbound.web_client import WebBounds, WebClient, WebError, WebRequest
from homeserver.rules.sso.providers import Identified, SsoProvider, text_claims

_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA")
BOUNDS = WebBounds(limits.SSO_S, limits.SSO_BYTES)


class ProviderFailed(Exception):
    """The provider can't be asked, or says what can't be used; the text is for the log."""


class _Metadata(msgspec.Struct, frozen=True):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)


class _Tokens(msgspec.Struct, frozen=True):
    id_token: str


class OpenIdConnect:
    """One provider. `callback` is where it sends browsers back to."""

    def __init__(
        self, provider: SsoProvider, client: WebClient, clock: Clock, *, callback: str
    ) -> None:
        self._provider, self._client, self._clock = provider, client, clock
        self._callback = callback
        self._metadata: tuple[float, _Metadata] | None = None
        self._keys: tuple[float, KeySet] | None = None

    async def entrance(self, state: str, nonce: str, verifier: str, *, again: bool) -> str:
        """Returns the address at the provider where somebody logs in; `again`: even who is logged
        in there already. Raises ProviderFailed."""
        metadata = await self._describe()
        challenge = urlsafe_b64encode(sha256(verifier.encode()).digest()).decode().rstrip("=")
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self._provider.client_id,
                "redirect_uri": self._callback,
                "scope": " ".join(self._provider.scopes),
                "state": state,
                "nonce": nonce,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
                **({"prompt": "login"} if again else {}),
            }
        )
        glue = "&" if "?" in metadata.authorization_endpoint else "?"
        return f"{metadata.authorization_endpoint}{glue}{query}"

    async def identify(self, code: str, nonce: str, verifier: str) -> Identified:
        """Returns who logged in, by the code that came back. Raises ProviderFailed."""
        metadata = await self._describe()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._callback,
            "code_verifier": verifier,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        name, secret = self._provider.client_id, self._provider.client_secret
        if "client_secret_basic" in metadata.token_endpoint_auth_methods_supported:
            pair = f"{quote(name, safe='')}:{quote(secret, safe='')}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": name, "client_secret": secret}
        body = urlencode(form).encode()
        answer = await self._ask("POST", metadata.token_endpoint, headers, body)
        tokens = _convert(answer, _Tokens)
        claims = await self._claims(metadata, tokens.id_token, nonce)
        subject = claims.get("sub")
        if not isinstance(subject, str) or not subject:
            raise ProviderFailed("the token names nobody")
        return Identified(subject, text_claims(claims))

    async def _claims(self, metadata: _Metadata, token: str, nonce: str) -> dict[str, Any]:
        try:
            decoded = jwt.decode(token, await self._find_keys(metadata, fresh=False), _ALGORITHMS)
        except (JoseError, ValueError):
            # a key that isn't known yet, perhaps
            try:
                keys = await self._find_keys(metadata, fresh=True)
                decoded = jwt.decode(token, keys, _ALGORITHMS)
            except (JoseError, ValueError) as error:
                raise ProviderFailed(f"the token isn't signed: {type(error).__name__}") from error
        registry = JWTClaimsRegistry(
            now=self._clock.now_ms() // 1000,
            leeway=limits.SSO_CLOCK_SKEW_S,
            iss={"essential": True, "value": metadata.issuer},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        claims = dict(decoded.claims)
        try:
            registry.validate(claims)
        except JoseError as error:
            raise ProviderFailed(f"the token isn't for this log-in: {error}") from error
        audience = claims.get("aud")
        named = audience if isinstance(audience, list) else [audience]
        if self._provider.client_id not in named:
            raise ProviderFailed("the token is for another client")
        if len(named) > 1 and claims.get("azp") != self._provider.client_id:
            raise ProviderFailed("the token was given to another client")
        return claims

    async def _describe(self) -> _Metadata:
        now_s = self._clock.monotonic_s()
        if self._metadata is not None and now_s - self._metadata[0] < limits.SSO_METADATA_S:
            return self._metadata[1]
        issuer = self._provider.url.rstrip("/")
        url = f"{issuer}/.well-known/openid-configuration"
        found: _Metadata = _convert(await self._ask("GET", url, {}, None), _Metadata)
        if found.issuer.rstrip("/") != issuer:
            raise ProviderFailed("it describes another issuer")
        self._metadata = (now_s, found)
        return found

    async def _find_keys(self, metadata: _Metadata, *, fresh: bool) -> KeySet:
        now_s = self._clock.monotonic_s()
        if self._keys is not None:
            age_s = now_s - self._keys[0]
            if age_s < limits.SSO_KEYS_S_LEAST or (not fresh and age_s < limits.SSO_METADATA_S):
                return self._keys[1]
        found = await self._ask("GET", metadata.jwks_uri, {}, None)
        if not isinstance(found, dict):
            raise ProviderFailed("its keys aren't a set")
        keys = KeySet.import_key_set(found)  # type: ignore[arg-type]
        self._keys = (now_s, keys)
        return keys

    async def _ask(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> object:
        try:
            answer = await self._client.request(
                WebRequest(method, yarl.URL(url), {**headers, "Accept": "application/json"}, body),
                BOUNDS,
            )
            if answer.status != 200:
                raise ProviderFailed(f"{method} {url}: status {answer.status}")
            found: object = orjson.loads(answer.body)
        except (WebError, ValueError) as error:
            raise ProviderFailed(f"{method} {url}: {error}") from error
        return found


def _convert(value: object, shape: type[Any]) -> Any:
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise ProviderFailed(str(error)) from error
