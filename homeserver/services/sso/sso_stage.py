"""The stage m.login.sso of interactive authentication: passed by a log-in at a provider alone."""

from __future__ import annotations

from typing import Final

from federation.events.canonical_json import JsonObject
from homeserver.rules.accounts.login_flows import SSO, Session
from homeserver.services.accounts.uia import Uia
from homeserver.services.sso.sign_on import Finished

_PROOF: Final = object()
"""What no client can send."""


async def check_sso_stage(session: Session, auth: JsonObject) -> str | None:
    """Returns the user, if a log-in at a provider vouches for them; see `pass_sso_stage`."""
    return session.user_id if auth.get("proof") is _PROOF else None


async def pass_sso_stage(uia: Uia, finished: Finished) -> bool:
    """Passes the stage of a session for whoever came back. Returns False if it is somebody else, or
    the session is over."""
    session_id = finished.uia_session or ""
    session = uia.find(session_id)
    if session is None or session.user_id != finished.user_id:
        return False
    return await uia.pass_stage(session_id, {"type": SSO, "proof": _PROOF})
