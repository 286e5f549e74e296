"""Whom users of this server and others can turn to.

Spec: client-server API, GET /.well-known/matrix/support.
"""

from __future__ import annotations

import msgspec

from federation.events.canonical_json import JsonObject
from federation.events.ids import is_user_id
from homeserver import limits
from homeserver.rules.identity.email_addresses import InvalidEmail, parse_email


class SupportContact(msgspec.Struct, frozen=True, kw_only=True):
    """A person, or several, by a user ID (on another server it is of use while this one is down),
    an e-mail address, or both. `role` is m.role.admin, m.role.security or a namespaced name."""

    role: str = "m.role.admin"
    matrix_id: str = ""
    email_address: str = ""


class SupportSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[support]`: contacts, and a page with help."""

    page: str = ""
    contacts: tuple[SupportContact, ...] = ()


def support_document(settings: SupportSettings) -> JsonObject:
    """Returns the published document; it is empty if there is nothing to publish."""
    document: JsonObject = {}
    if settings.contacts:
        document["contacts"] = [
            {name: value for name, value in msgspec.structs.asdict(contact).items() if value}
            for contact in settings.contacts
        ]
    if settings.page:
        document["support_page"] = settings.page
    return document


def support_problems(settings: SupportSettings) -> list[str]:
    """Returns what is wrong with the settings of a configuration, in sentences."""
    problems = []
    if settings.page and not settings.page.startswith(("https://", "http://", "mailto:")):
        problems.append("support.page must begin with https://, http:// or mailto:")
    if len(settings.contacts) > limits.SUPPORT_CONTACTS:
        problems.append(f"support.contacts: {limits.SUPPORT_CONTACTS} are enough")
    for contact in settings.contacts:
        if not contact.role or not (contact.matrix_id or contact.email_address):
            problems.append("support.contacts: each needs a role, and a matrix_id or email_address")
        if contact.matrix_id and not is_user_id(contact.matrix_id):
            problems.append(f'support.contacts: "{contact.matrix_id}" is not a user ID')
        if contact.email_address and not _is_email(contact.email_address):
            problems.append(f'support.contacts: "{contact.email_address}" is not an e-mail address')
    return problems


def _is_email(text: str) -> bool:
    try:
        return parse_email(text) == text
    except InvalidEmail:
        return False
