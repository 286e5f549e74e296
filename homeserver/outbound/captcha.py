"""Asks whether a captcha was solved.

Spec: client-server API, "Google ReCaptcha"; reCAPTCHA, "Verifying the user's response".
"""

from __future__ import annotations

import logging
from urllib.parse import urlencode

import orjson
import yarl

from homeserver import limits
from homeserver.errors import unavailable
from homeserver.outbound.web_client import WebBounds, WebClient, WebError, WebRequest

BOUNDS = WebBounds(limits.CAPTCHA_S, limits.CAPTCHA_BYTES)
_log = logging.getLogger(__name__)


class CaptchaVerifier:
    """Asks the provider of captchas, at the configuration's address."""

    def __init__(self, client: WebClient, url: str, secret_key: str) -> None:
        self._client, self._url, self._secret_key = client, yarl.URL(url), secret_key

    async def is_solved(self, response: str) -> bool:
        """Returns whether a response is one of somebody who solved it. Raises 503."""
        if not 0 < len(response) <= limits.CAPTCHA_CHARACTERS:
            return False
        body = urlencode({"secret": self._secret_key, "response": response}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        try:
            answer = await self._client.request(
                WebRequest("POST", self._url, headers, body), BOUNDS
            )
            found = orjson.loads(answer.body)
        except (WebError, orjson.JSONDecodeError) as error:
            _log.warning("the provider of captchas can't be asked: %s", error)
            raise unavailable("The captcha can't be checked now") from error
        return isinstance(found, dict) and found.get("success") is True
