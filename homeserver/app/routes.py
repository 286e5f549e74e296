"""Joins the endpoints of all domains to the client-server API."""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.api.http.query import PageTokens
from homeserver.api.http.routes import Route, table
from homeserver.api.server_info import ServerInfoApi
from homeserver.app.domains.accounts import account_routes
from homeserver.app.domains.admin import admin_routes
from homeserver.app.domains.appservices import appservice_routes
from homeserver.app.domains.encryption import encryption_routes
from homeserver.app.domains.ephemeral import ephemeral_routes
from homeserver.app.domains.identity import identity_routes
from homeserver.app.domains.media import media_routes
from homeserver.app.domains.push import account_data_routes, push_routes
from homeserver.app.domains.rooms import room_routes
from homeserver.app.domains.sync import sync_routes
from homeserver.app.domains.timeline import timeline_routes
from homeserver.app.pushers import pusher_routes
from homeserver.app.services import Services
from homeserver.app.sign_on import sso_routes
from homeserver.config import Config
from homeserver.rules.admin.support import support_document
from homeserver.rules.spec_versions import supported_versions
from homeserver.web.pages import Pages


def server_info_routes(config: Config, versions: Sequence[str]) -> list[Route]:
    """Returns the endpoints that say what this server is and can do."""
    return list(
        ServerInfoApi(
            versions=versions,
            public_baseurl=config.public_baseurl,
            default_room_version=config.default_room_version,
            delegated_name=config.federation.delegated_name,
            has_mail=bool(config.email.host),
            support=support_document(config.support),
        ).routes()
    )


def make_routes(services: Services, config: Config) -> list[Route]:
    """Returns the table of client routes."""
    tokens = PageTokens(services.engine.committer.history)
    pages = Pages(config.server_name)
    others: list[Sequence[Route]] = [
        *account_routes(services.accounts, services.identity, config, pages),
        *sso_routes(services.engine.context, services.sign_on, services.accounts, config, pages),
        *identity_routes(
            services.identity, services.accounts.accounts, services.accounts.uia, pages
        ),
        *admin_routes(services.admin, config),
        *room_routes(services.engine, services.rooms, tokens, services.inviting),
        *timeline_routes(services.timeline, services.search, tokens),
        *sync_routes(services.sync, services.filters),
        *encryption_routes(services.encryption, services.dehydrated, services.accounts.uia, tokens),
        *ephemeral_routes(services.ephemeral),
        *account_data_routes(services.account_data),
        *media_routes(services.media, config),
        *appservice_routes(services.appservices),
        *push_routes(services.push),
        *pusher_routes(services.pushers, pages),
    ]
    parts = [server_info_routes(config, ()), *others]
    operations = [(route.method, route.template) for part in parts for route in part]
    return table([server_info_routes(config, supported_versions(operations)), *others])
