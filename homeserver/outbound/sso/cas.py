"""A provider by CAS: a ticket in the browser's address, which the server validates.

Rules:
1. The address that the ticket is for (`service`) has the state of this log-in: a ticket that was
   made for another one isn't valid for it.
2. A log-in that must be a new one (`again`) says so at both ends: the ticket of a session that was
   there before doesn't count.
3. An answer with a document type is refused: entities could make it grow.

Spec: CAS Protocol 3.0, sections 2.1 and 2.8.
"""

from __future__ import annotations

from urllib.parse import urlencode
from xml.etree import ElementTree

import yarl

from homeserver import limits
from homeserver.outbound.sso.openid_connect import ProviderFailed
from homeserver.outbound.web_client import WebBounds, WebClient, WebError, WebRequest
from homeserver.rules.sso.providers import Identified, SsoProvider

BOUNDS = WebBounds(limits.SSO_S, limits.SSO_BYTES)
_CAS = "{http://www.yale.edu/tp/cas}"


class Cas:
    """One provider. `callback` is where it sends browsers back to."""

    def __init__(self, provider: SsoProvider, client: WebClient, *, callback: str) -> None:
        self._url, self._client, self._callback = provider.url.rstrip("/"), client, callback

    async def entrance(self, state: str, _nonce: str, _verifier: str, *, again: bool) -> str:
        """Returns the address at the provider where somebody logs in; `again`: even who is logged
        in there already."""
        return f"{self._url}/login?{urlencode(self._query(state, again=again))}"

    async def identify(self, ticket: str, state: str, *, again: bool) -> Identified:
        """Returns who logged in, by the ticket that came back. Raises ProviderFailed."""
        query = urlencode({**self._query(state, again=again), "ticket": ticket})
        url = yarl.URL(f"{self._url}/p3/serviceValidate?{query}", encoded=True)
        try:
            answer = await self._client.request(WebRequest("GET", url), BOUNDS)
        except WebError as error:
            raise ProviderFailed(str(error)) from error
        if answer.status != 200 or b"<!DOCTYPE" in answer.body.upper():
            raise ProviderFailed(f"no answer that can be used, status {answer.status}")
        try:
            root = ElementTree.fromstring(answer.body)
        except ElementTree.ParseError as error:
            raise ProviderFailed("its answer isn't XML") from error
        success = root.find(f"{_CAS}authenticationSuccess")
        user = None if success is None else success.findtext(f"{_CAS}user")
        if success is None or not user or not user.strip():
            raise ProviderFailed("it doesn't know the ticket")
        claims = {"user": user.strip()}
        for one in success.findall(f"{_CAS}attributes/*"):
            claims.setdefault(one.tag.removeprefix(_CAS), (one.text or "").strip())
        return Identified(user.strip(), claims)

    def _query(self, state: str, *, again: bool) -> dict[str, str]:
        query = {"service": f"{self._callback}?{urlencode({'state': state})}"}
        return {**query, "renew": "true"} if again else query
