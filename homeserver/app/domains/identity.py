"""Creates the services and endpoints of third-party identifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from federation.events.canonical_json import JsonObject
from homeserver.api.http.routes import Route
from homeserver.api.identity.passwords import PasswordsApi
from homeserver.api.identity.third_party_ids import ThirdPartyIdsApi
from homeserver.api.identity.validations import ValidationsApi
from homeserver.app.context import ServerContext
from homeserver.config import Config
from homeserver.outbound.captcha import CaptchaVerifier
from homeserver.outbound.identity_servers import IdentityServers
from homeserver.outbound.mail.sender import MailSender
from homeserver.outbound.web_client import WebClient
from homeserver.rules.accounts.login_flows import EMAIL_IDENTITY, RECAPTCHA, SSO, TERMS
from homeserver.rules.accounts.terms import terms_params
from homeserver.services.accounts.accounts import Accounts
from homeserver.services.accounts.device_removal import DeviceRemoval
from homeserver.services.accounts.passwords import Passwords
from homeserver.services.accounts.rate_limits import RateLimiter
from homeserver.services.accounts.uia import StageCheck, Uia
from homeserver.services.identity.bindings import Bindings
from homeserver.services.identity.identifiers import Identifiers
from homeserver.services.identity.password_resets import PasswordResets
from homeserver.services.identity.stages import CaptchaStage, TermsStage
from homeserver.services.identity.third_party_ids import ThirdPartyIds
from homeserver.services.identity.validations import (
    EmailValidations,
    ValidationParts,
    ValidationSettings,
)
from homeserver.services.sso.sso_stage import check_sso_stage
from homeserver.storage.database import Database
from homeserver.web.pages import Pages


@dataclass(frozen=True, slots=True)
class ProofServices:
    """What the services of accounts ask: who is named, and who owns an address."""

    identifiers: Identifiers
    validations: EmailValidations
    stages: Mapping[str, StageCheck]
    stage_params: Mapping[str, JsonObject]


@dataclass(frozen=True, slots=True)
class IdentityServices:
    """Third-party identifiers, and passwords by them."""

    proofs: ProofServices
    third_party_ids: ThirdPartyIds
    bindings: Bindings
    resets: PasswordResets


def make_proofs(
    context: ServerContext,
    database: Database,
    config: Config,
    mail: MailSender | None,
    web: WebClient,
    limiter: RateLimiter,
) -> ProofServices:
    """Creates the services that those of accounts ask; `mail` None: there is no mail server. `web`
    asks servers of the configuration."""
    captcha = config.recaptcha
    verifier = CaptchaVerifier(web, captcha.verify_url, captcha.secret_key)
    validations = EmailValidations(
        database,
        ValidationParts(mail, limiter, context.clock, context.random_bytes),
        ValidationSettings(
            config.public_baseurl, config.email.next_links, config.email.reveals_addresses
        ),
    )
    return ProofServices(
        Identifiers(database, context.name),
        validations,
        {
            EMAIL_IDENTITY: validations.prove_stage,
            TERMS: TermsStage(config.terms).check,
            RECAPTCHA: CaptchaStage(verifier).check,
            SSO: check_sso_stage,
        },
        {
            TERMS: terms_params(config.terms),
            RECAPTCHA: {"public_key": captcha.site_key},
        },
    )


def make_identity(
    context: ServerContext,
    database: Database,
    proofs: ProofServices,
    servers: IdentityServers,
    passwords: Passwords,
    removal: DeviceRemoval,
) -> IdentityServices:
    """Creates the services above those of accounts."""
    return IdentityServices(
        proofs,
        ThirdPartyIds(database, proofs.validations, context.clock),
        Bindings(database, servers, context.name, context.key),
        PasswordResets(database, passwords, removal, context.clock),
    )


def identity_routes(
    services: IdentityServices, accounts: Accounts, uia: Uia, pages: Pages
) -> list[Sequence[Route]]:
    """Returns the endpoints of third-party identifiers and of passwords."""
    validations = services.proofs.validations
    return [
        ValidationsApi(validations, pages).routes(),
        ThirdPartyIdsApi(services.third_party_ids, services.bindings, uia).routes(),
        PasswordsApi(accounts, services.resets, uia, by_email=validations.is_possible).routes(),
    ]
