"""Which user a log-in, or a stage of interactive authentication, names.

Spec: client-server API, "Identifier types".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from federation.events.ids import ServerName, UserId
from homeserver.rules.accounts.login_flows import claimed_user
from homeserver.rules.identity.third_party_ids import canonical_address
from homeserver.services.accounts.accounts import resolve_user
from homeserver.storage.database import Database
from homeserver.storage.identity.third_party_ids import ThirdPartyIdTable


class Identifiers:
    """Finds users by ID, localpart or third-party identifier."""

    def __init__(self, database: Database, server_name: ServerName) -> None:
        self._table, self._server_name = ThirdPartyIdTable(database), server_name

    async def find(self, claimed: Mapping[str, Any]) -> UserId | None:
        """Returns the user that `identifier`, or the older `user`, `medium` and `address`, name.
        None if there can't be one; a user who is named by ID needn't exist."""
        user = claimed_user(claimed)
        if user is not None:
            return resolve_user(user, self._server_name)
        if (pair := claimed_third_party_id(claimed)) is None:
            return None
        canonical = canonical_address(*pair)
        return None if canonical is None else await self._table.find_owner(pair[0], canonical)


def names_third_party_id(claimed: Mapping[str, Any]) -> bool:
    """Returns whether an identifier is a third-party one; no account here has a phone number."""
    identifier = claimed.get("identifier")
    if isinstance(identifier, dict) and identifier.get("type") == "m.id.phone":
        return isinstance(identifier.get("phone"), str)
    return claimed_third_party_id(claimed) is not None


def claimed_third_party_id(claimed: Mapping[str, Any]) -> tuple[str, str] | None:
    """Returns medium and address of an identifier m.id.thirdparty, or of the older parameters."""
    identifier = claimed.get("identifier")
    if isinstance(identifier, dict):
        if identifier.get("type") != "m.id.thirdparty":
            return None
        claimed = identifier
    medium, address = claimed.get("medium"), claimed.get("address")
    if not isinstance(medium, str) or not isinstance(address, str):
        return None
    return medium, address
