"""Creates the services and endpoints of server administrators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.api.admin.moderation import ModerationApi
from homeserver.api.admin.reports import ReportsApi
from homeserver.api.admin.shared_secret import SharedSecretApi
from homeserver.api.http.routes import Route
from homeserver.app.domains.accounts import AccountHooks, AccountServices
from homeserver.app.engine import Engine
from homeserver.config import Config
from homeserver.services.admin.account_watch import AccountWatch
from homeserver.services.admin.moderation import Moderation
from homeserver.services.admin.reports import IsSeen, Reports
from homeserver.services.admin.shared_secret import SharedSecretRegistration
from homeserver.storage.database import Database


@dataclass(frozen=True, slots=True)
class AdminServices:
    """The operations of administrators, and what follows the operator's commands."""

    moderation: Moderation
    watch: AccountWatch
    registration: SharedSecretRegistration
    reports: Reports


def make_admin(
    engine: Engine,
    database: Database,
    accounts: AccountServices,
    hooks: AccountHooks,
    config: Config,
    is_seen: IsSeen,
) -> AdminServices:
    """Creates the services. `is_seen` tells which events a user may report."""
    context = engine.context
    return AdminServices(
        moderation=Moderation(database, context.name, accounts.tokens),
        watch=AccountWatch(
            database,
            context.clock,
            accounts.tokens,
            accounts.removal,
            on_deactivated=hooks.on_deactivated,
        ),
        registration=SharedSecretRegistration(
            accounts.accounts,
            context.clock,
            context.random_bytes,
            secret=config.registration.shared_secret,
        ),
        reports=Reports(database, context.clock, is_seen=is_seen),
    )


def admin_routes(services: AdminServices, config: Config) -> list[Sequence[Route]]:
    """Returns the endpoints; registration by a shared secret only where one is configured."""
    routes: list[Sequence[Route]] = [
        ModerationApi(services.moderation).routes(),
        ReportsApi(services.reports).routes(),
    ]
    if config.registration.shared_secret:
        routes.append(SharedSecretApi(services.registration).routes())
    return routes
