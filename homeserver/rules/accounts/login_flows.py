"""Decisions of user-interactive authentication: flows, stages, and completion.

Rules:
1. A flow is done when all of its stages are; one flow is enough.
2. A session belongs to one operation of one user; a stage passed for one operation doesn't count
   for another.

Spec: client-server API, "User-Interactive Authentication API".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from federation.events.canonical_json import JsonObject
from federation.events.ids import UserId

DUMMY: Final = "m.login.dummy"
PASSWORD: Final = "m.login.password"
TOKEN: Final = "m.login.token"
REGISTRATION_TOKEN: Final = "m.login.registration_token"
EMAIL_IDENTITY: Final = "m.login.email.identity"
RECAPTCHA: Final = "m.login.recaptcha"
TERMS: Final = "m.login.terms"
SSO: Final = "m.login.sso"
APPSERVICE: Final = "m.login.application_service"

Flow: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Session:
    """An authentication in progress. `passed` has each passed stage with the identity that it
    proved.
    """

    session_id: str
    operation: str
    user_id: UserId | None
    flows: tuple[Flow, ...]
    started_s: float
    passed: Mapping[str, str] = field(default_factory=dict)

    def is_for(self, operation: str, user_id: str | None) -> bool:
        """Returns whether it was begun for this operation by this user."""
        return self.operation == operation and self.user_id == user_id

    def is_done(self) -> bool:
        """Returns whether a flow is complete."""
        return any(all(stage in self.passed for stage in flow) for flow in self.flows)

    def offers(self, stage: str) -> bool:
        """Returns whether a stage is part of a flow."""
        return any(stage in flow for flow in self.flows)

    def body(self, params: Mapping[str, JsonObject]) -> dict[str, Any]:
        """Returns the body of a 401 that tells the client the remaining stages; `params` has what
        it needs to know for a stage."""
        return {
            "flows": [{"stages": list(flow)} for flow in self.flows],
            "params": {stage: value for stage, value in params.items() if self.offers(stage)},
            "session": self.session_id,
            "completed": sorted(self.passed),
        }


def registration_flows(
    verification: str, *, email: str = "none", captcha: bool = False, terms: bool = False
) -> tuple[Flow, ...]:
    """Returns the flows for a registration, by the configuration. Where an address is optional, the
    flow without one ends with the dummy stage: no flow may be the beginning of another (spec:
    "Dummy Auth")."""
    wanted = ((REGISTRATION_TOKEN, verification == "token"), (RECAPTCHA, captcha), (TERMS, terms))
    stages = tuple(stage for stage, is_wanted in wanted if is_wanted)
    if email == "required":
        return ((*stages, EMAIL_IDENTITY),)
    if email == "optional":
        return ((*stages, DUMMY), (*stages, EMAIL_IDENTITY))
    return (stages or (DUMMY,),)


def claimed_user(auth: Mapping[str, Any]) -> str | None:
    """Returns the user that a password stage or log-in names, by `identifier` or the older `user`;
    None for another kind of identifier or a malformed one."""
    identifier = auth.get("identifier")
    if isinstance(identifier, dict):
        user = identifier.get("user") if identifier.get("type") == "m.id.user" else None
    else:
        user = auth.get("user")
    return user if isinstance(user, str) else None


def login_flows(providers: Sequence[Mapping[str, str]] = ()) -> Sequence[Mapping[str, Any]]:
    """Returns the flows of GET /login; `providers` are those of single sign-on."""
    flows: list[Mapping[str, Any]] = [
        {"type": PASSWORD},
        {"type": TOKEN, "get_login_token": True},
        {"type": APPSERVICE},
    ]
    if providers:
        flows.insert(1, {"type": SSO, "identity_providers": list(providers)})
    return tuple(flows)
