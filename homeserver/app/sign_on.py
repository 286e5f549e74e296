"""Creates the services and endpoints of single sign-on."""

from __future__ import annotations

from collections.abc import Sequence

from federation.ports import Clock
from homeserver.api.http.routes import Route
from homeserver.api.sso.sso import CALLBACK, SsoApi
from homeserver.app.context import ServerContext
from homeserver.app.domains.accounts import AccountServices
from homeserver.config import Config
from homeserver.outbound.sso.cas import Cas
from homeserver.outbound.sso.openid_connect import OpenIdConnect
from homeserver.outbound.web_client import WebClient
from homeserver.rules.sso.providers import SsoProvider
from homeserver.services.sso.sign_on import ProviderClient, SignOn, SignOnParts
from homeserver.services.sso.sso_stage import StageConfirmations
from homeserver.storage.database import Database
from homeserver.web.pages import Pages


def make_sign_on(
    context: ServerContext,
    database: Database,
    config: Config,
    client: WebClient,
    accounts: AccountServices,
) -> SignOn:
    """Creates the log-ins through the configuration's providers."""
    callback = f"{config.public_baseurl}{CALLBACK}"
    providers = [
        (one, _client(one, client, context.clock, callback)) for one in config.sso.providers
    ]
    parts = SignOnParts(
        accounts.accounts, context.clock, context.random_bytes, config.sso.trusted_redirects
    )
    return SignOn(database, providers, parts)


def _client(config: SsoProvider, client: WebClient, clock: Clock, callback: str) -> ProviderClient:
    if config.kind == "cas":
        return Cas(config, client, callback=callback)
    return OpenIdConnect(config, client, clock, callback=callback)


def sso_routes(
    context: ServerContext,
    sign_on: SignOn,
    accounts: AccountServices,
    config: Config,
    pages: Pages,
) -> list[Sequence[Route]]:
    """Returns the endpoints; none without a provider."""
    if not config.sso.providers:
        return []
    is_secure = config.public_baseurl.startswith("https://")
    confirmations = StageConfirmations(accounts.uia, context.clock, context.random_bytes)
    api = SsoApi(sign_on, accounts.login_tokens, confirmations, pages, is_secure=is_secure)
    return [api.routes()]
