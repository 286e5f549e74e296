"""Creates the services and endpoints of accounts, log-ins, devices and profiles."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from federation.events.canonical_json import JsonObject
from federation.events.ids import UserId
from homeserver.api.accounts.accounts import AccountsApi
from homeserver.api.accounts.devices import DevicesApi
from homeserver.api.accounts.login_page import LoginPageApi
from homeserver.api.accounts.logins import LoginsApi
from homeserver.api.accounts.openid import OpenIdApi
from homeserver.api.accounts.profiles import ProfilesApi
from homeserver.api.accounts.sessions import SessionsApi
from homeserver.api.accounts.stage_pages import CaptchaPage, StagePagesApi, StageParts
from homeserver.api.http.routes import Route
from homeserver.api.sso.sso import CONFIRM
from homeserver.app.domains.identity import IdentityServices, ProofServices
from homeserver.app.engine import Engine
from homeserver.config import Config
from homeserver.rules.accounts.login_flows import PASSWORD, SSO, registration_flows
from homeserver.rules.appservices.registrations import AppService
from homeserver.services.accounts.accounts import AccountParts, Accounts
from homeserver.services.accounts.device_removal import DeviceRemoval, OnDevicesDeleted
from homeserver.services.accounts.devices import Devices
from homeserver.services.accounts.logins import LoginParts, Logins
from homeserver.services.accounts.passwords import Passwords
from homeserver.services.accounts.profiles import Profiles
from homeserver.services.accounts.rate_limits import RateLimiter
from homeserver.services.accounts.seen_devices import SeenDevices
from homeserver.services.accounts.sessions.login_tokens import LoginTokens
from homeserver.services.accounts.sessions.openid import OpenId
from homeserver.services.accounts.sessions.refreshes import Refreshes
from homeserver.services.accounts.tokens import Tokens, configured_lifetimes
from homeserver.services.accounts.uia import PASSWORD_FLOW, StageChecks, Uia
from homeserver.storage.database import Database
from homeserver.web.pages import Pages


@dataclass(frozen=True, slots=True)
class AccountServices:
    """Accounts, log-ins, devices and profiles."""

    tokens: Tokens
    refreshes: Refreshes
    login_tokens: LoginTokens
    openid: OpenId
    passwords: Passwords
    accounts: Accounts
    logins: Logins
    devices: Devices
    uia: Uia
    profiles: Profiles
    seen: SeenDevices
    removal: DeviceRemoval


@dataclass(frozen=True, slots=True)
class AccountHooks:
    """What other domains do when accounts change, and profiles of other servers' users."""

    on_devices_deleted: Sequence[OnDevicesDeleted]
    on_deactivated: Sequence[Callable[[UserId], None]]
    on_profile_changed: Sequence[Callable[[UserId], Awaitable[None]]]
    fetch_profile: Callable[[UserId, str | None], Awaitable[JsonObject]]
    check_name: Callable[[UserId, AppService | None], None]


def make_accounts(
    engine: Engine,
    database: Database,
    hooks: AccountHooks,
    *,
    passwords: Passwords,
    limiter: RateLimiter,
    config: Config,
    proofs: ProofServices,
) -> AccountServices:
    """Creates the services."""
    name, clock, random_bytes = (
        engine.context.name,
        engine.context.clock,
        engine.context.random_bytes,
    )
    committer = engine.committer
    tokens = Tokens(database, random_bytes, clock, configured_lifetimes(config.sessions))
    login_tokens = LoginTokens(database, clock, random_bytes)
    removal = DeviceRemoval(committer, tokens, hooks.on_devices_deleted, sends=engine.transactions)
    accounts = Accounts(
        database,
        name,
        AccountParts(
            clock,
            random_bytes,
            passwords,
            tokens,
            removal,
            hooks.check_name,
            hooks.on_deactivated,
            config.registration.tokens,
        ),
    )
    checks = StageChecks(
        accounts.is_password_right,
        accounts.is_token_usable,
        proofs.identifiers.find,
        proofs.stages,
        proofs.stage_params,
        ((PASSWORD,), (SSO,)) if config.sso.providers else PASSWORD_FLOW,
    )
    parts = LoginParts(clock, random_bytes, passwords, tokens, limiter, removal, login_tokens)
    return AccountServices(
        tokens=tokens,
        refreshes=Refreshes(database, clock, tokens),
        login_tokens=login_tokens,
        openid=OpenId(database, name, clock, random_bytes),
        passwords=passwords,
        accounts=accounts,
        logins=Logins(database, committer, name, parts),
        devices=Devices(database, committer, removal, clock),
        uia=Uia(clock, random_bytes, checks, limiter=limiter),
        profiles=Profiles(
            database,
            name,
            on_profile_changed=hooks.on_profile_changed,
            fetch_remote=hooks.fetch_profile,
        ),
        seen=SeenDevices(database, clock),
        removal=removal,
    )


def account_routes(
    services: AccountServices, identity: IdentityServices, config: Config, pages: Pages
) -> list[Sequence[Route]]:
    """Returns the endpoints."""
    registration = config.registration
    return [
        AccountsApi(
            services.accounts,
            services.uia,
            enabled=registration.enabled,
            flows=registration_flows(
                registration.verification,
                email=registration.email,
                captcha=bool(config.recaptcha.site_key),
                terms=bool(config.terms),
            ),
            guests=registration.guests,
            bindings=identity.bindings,
        ).routes(),
        LoginsApi(
            services.logins,
            identity.proofs.identifiers.find,
            public_baseurl=config.public_baseurl,
            providers=[one.listed() for one in config.sso.providers],
        ).routes(),
        LoginPageApi(pages).routes(),
        StagePagesApi(
            StageParts(
                services.uia,
                pages,
                identity.proofs.validations,
                config.terms,
                CaptchaPage(config.recaptcha.site_key, config.recaptcha.script_url),
                sso_links=[(one.name, f"{CONFIRM}/{one.id}") for one in config.sso.providers],
            )
        ).routes(),
        SessionsApi(services.refreshes, services.login_tokens, services.uia).routes(),
        OpenIdApi(services.openid).routes(),
        DevicesApi(services.devices, services.uia).routes(),
        ProfilesApi(services.profiles).routes(),
    ]
