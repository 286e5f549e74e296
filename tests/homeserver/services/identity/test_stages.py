"""Checks of the stages that a new user goes through."""

from __future__ import annotations

import pytest

from homeserver.rules.accounts.login_flows import TERMS, Session
from homeserver.rules.accounts.terms import Policy
from homeserver.services.identity.stages import TermsStage

SESSION = Session("s", "register", None, ((TERMS,),), 0.0)


@pytest.mark.parametrize(
    ("auth", "proved"),
    [({}, "terms 1"), ({"accepted": True}, "terms 1"), ({"accepted": False}, None)],
)
async def test_terms_are_accepted_but_where_the_box_is_empty(
    auth: dict[str, object], proved: str | None
) -> None:
    stage = TermsStage([Policy(id="terms", version="1", texts=())])
    assert await stage.check(SESSION, auth) == proved
