"""Checks of the stages that a new user goes through: terms and captchas.

Spec: client-server API, "Terms of service at registration", "Google ReCaptcha".
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.events.canonical_json import JsonObject
from homeserver.outbound.captcha import CaptchaVerifier
from homeserver.rules.accounts.login_flows import Session
from homeserver.rules.accounts.terms import Policy, name_policies


class TermsStage:
    """Notes which versions of the policies were accepted."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._proved = name_policies(policies)

    async def check(self, _session: Session, auth: JsonObject) -> str | None:
        """Returns the accepted versions. Sending the stage accepts them, but on a page whose box
        wasn't ticked (`accepted` false)."""
        return None if auth.get("accepted") is False else self._proved


class CaptchaStage:
    """Asks the provider whether the captcha was solved."""

    def __init__(self, verifier: CaptchaVerifier) -> None:
        self._verifier = verifier

    async def check(self, _session: Session, auth: JsonObject) -> str | None:
        """Returns "" if it was. Raises 503 while the provider can't be asked."""
        response = auth.get("response")
        is_solved = isinstance(response, str) and await self._verifier.is_solved(response)
        return "" if is_solved else None
