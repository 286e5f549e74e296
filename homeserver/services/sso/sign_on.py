"""Log-ins through a provider, from the redirect to the user who came back.

Rules:
1. A log-in belongs to the browser that began it (a cookie), works once (its state is taken out),
   and ends after `SSO_SESSION_S`: nobody can make another's browser finish a log-in of theirs.
2. A provider's user stays the same user here, by the provider's own name of them. The first time an
   account is made, if the provider may; its name is one that nobody has: an existing account is
   never taken over because its name fits.
3. A browser goes afterwards where the client wants it, with a token that logs in once. Places that
   the configuration doesn't trust are shown first, for the user to confirm.

Spec: client-server API, "Client login via SSO", "SSO during User-Interactive Authentication".
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from typing import NamedTuple, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from federation.bounded_cache import ExpiringCache
from federation.errors import MatrixError
from federation.events.ids import UserId
from federation.events.signing import encode_base64_url
from federation.ports import Clock
from homeserver import limits
from homeserver.errors import forbidden, invalid_param, not_found
from homeserver.outbound.sso.cas import Cas
from homeserver.outbound.sso.openid_connect import OpenIdConnect, ProviderFailed
from homeserver.rules.identity.third_party_ids import is_within
from homeserver.rules.sso.providers import Identified, SsoProvider, fill, localpart_of
from homeserver.services.accounts.accounts import Accounts, Registration
from homeserver.services.accounts.logins import NewDevice
from homeserver.storage.accounts.accounts import AccountTable
from homeserver.storage.database import Connection, Database
from homeserver.storage.sso import sso_users
from homeserver.storage.sso.sso_users import SsoUserTable

_log = logging.getLogger(__name__)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_RUNNING = frozenset({"javascript", "data", "vbscript", "file", "blob", "about"})
"""Schemes that would run in the page, or read the disk."""
_WEB = frozenset({"http", "https"})
_COOKIE = re.compile(r"[0-9A-Za-z_-]{43}")
_DEFAULTS = {"oidc": ("{preferred_username}", "{name}"), "cas": ("{user}", "{displayName}")}

ProviderClient: TypeAlias = OpenIdConnect | Cas


class Started(NamedTuple):
    """A log-in that was begun: where the browser goes, and the cookie that it keeps."""

    location: str
    cookie: str


class Finished(NamedTuple):
    """A log-in that came back: who it is, and what it was for."""

    user_id: UserId
    redirect_url: str | None
    uia_session: str | None


@dataclass(frozen=True, slots=True)
class _UnderWay:
    provider: str
    cookie: str
    nonce: str
    verifier: str
    redirect_url: str | None
    uia_session: str | None

    @property
    def is_again(self) -> bool:
        """It confirms an action: the provider is asked to let its user log in again."""
        return self.uia_session is not None


class _Raced(Exception):
    """Two log-ins of a new user at once: the other one made the account."""


@dataclass(frozen=True, slots=True)
class SignOnParts:
    """The dependencies of `SignOn`."""

    accounts: Accounts
    clock: Clock
    random_bytes: Callable[[int], bytes]
    trusted: tuple[str, ...] = ()


class SignOn:
    """Log-ins through providers, in order of the configuration."""

    def __init__(
        self,
        database: Database,
        providers: Sequence[tuple[SsoProvider, ProviderClient]],
        parts: SignOnParts,
    ) -> None:
        self._providers = {provider.id: (provider, client) for provider, client in providers}
        self._users, self._accounts = SsoUserTable(database), AccountTable(database)
        self._parts = parts
        self._under_way: ExpiringCache[str, _UnderWay] = ExpiringCache(
            limits.SSO_SESSIONS, limits.SSO_SESSION_S, parts.clock.monotonic_s
        )

    @property
    def providers(self) -> list[SsoProvider]:
        """The providers."""
        return [provider for provider, _ in self._providers.values()]

    async def start(
        self,
        provider_id: str,
        cookie: str | None,
        *,
        redirect_url: str | None = None,
        uia_session: str | None = None,
    ) -> Started:
        """Begins a log-in; `cookie` is that of the browser, if it has one. Raises 404 M_NOT_FOUND,
        400 M_INVALID_PARAM for the redirect, 502 if the provider can't be asked."""
        if redirect_url is not None:
            check_redirect(redirect_url)
        provider, client = self._find(provider_id)
        kept = cookie if cookie and _COOKIE.fullmatch(cookie) else self._secret()
        state = self._secret()
        under_way = _UnderWay(
            provider_id, kept, self._secret(), self._secret(), redirect_url, uia_session
        )
        try:
            location = await client.entrance(
                state, under_way.nonce, under_way.verifier, again=under_way.is_again
            )
        except ProviderFailed as error:
            raise _unusable(provider, error) from error
        self._under_way.put(state, under_way)
        return Started(location, kept)

    async def finish(self, state: str, cookie: str | None, answer: Mapping[str, str]) -> Finished:
        """Ends a log-in, by what the provider sent back with the browser: `code` or `ticket`.
        Raises 403 M_FORBIDDEN, 502 if the provider says nothing that can be used."""
        under_way = self._under_way.pop(state)
        if under_way is None or not is_same_secret(under_way.cookie, cookie):
            raise forbidden("This log-in wasn't begun in this browser, or is too old")
        provider, client = self._find(under_way.provider)
        try:
            if isinstance(client, Cas):
                found = await client.identify(
                    _one(answer, "ticket"), state, again=under_way.is_again
                )
            else:
                code = _one(answer, "code")
                found = await client.identify(code, under_way.nonce, under_way.verifier)
            if len(found.subject) > limits.SSO_SUBJECT_CHARACTERS or "\0" in found.subject:
                raise ProviderFailed("the user's name is too long")
        except ProviderFailed as error:
            raise _unusable(provider, error) from error
        user_id = await self._user_of(provider, found)
        account = await self._accounts.load(user_id)
        if account is None or account.is_deactivated:
            raise forbidden("This account doesn't exist any more")
        return Finished(user_id, under_way.redirect_url, under_way.uia_session)

    def is_trusted(self, redirect_url: str) -> bool:
        """Returns whether a browser may go somewhere without being asked."""
        return is_within(redirect_url, self._parts.trusted)

    async def _user_of(self, provider: SsoProvider, found: Identified) -> UserId:
        known = await self._users.find(provider.id, found.subject)
        if known is not None:
            return known
        if not provider.registers:
            raise forbidden("You have no account on this server")
        try:
            return await self._register(provider, found)
        except _Raced:
            known = await self._users.find(provider.id, found.subject)
            assert known is not None, "the other log-in has noted the user"
            return known

    async def _register(self, provider: SsoProvider, found: Identified) -> UserId:
        localpart_default, name_default = _DEFAULTS[provider.kind]
        wanted = fill(provider.localpart or localpart_default, found.claims)
        if wanted is None:
            raise forbidden("The provider doesn't say which name you want")
        name = fill(provider.display_name or name_default, found.claims)
        display_name = None if name is None else name[: limits.DISPLAYNAME_CHARACTERS]

        async def note(connection: Connection, user_id: UserId, _now_ms: int) -> None:
            if not await sso_users.add(connection, provider.id, found.subject, user_id):
                raise _Raced

        for number in range(limits.SSO_NAMES_TRIED):
            try:
                made = await self._parts.accounts.register(
                    Registration(
                        localpart=localpart_of(wanted) + (str(number + 1) if number else ""),
                        password=None,
                        device=NewDevice(None, None, ""),
                        inhibit_login=True,
                        display_name=display_name,
                        also=note,
                    )
                )
            except MatrixError as error:
                if error.errcode not in ("M_USER_IN_USE", "M_EXCLUSIVE"):
                    raise
                continue
            return made.user_id
        raise forbidden("Your name is taken here, with every number behind")

    def _find(self, provider_id: str) -> tuple[SsoProvider, ProviderClient]:
        found = self._providers.get(provider_id)
        if found is None:
            raise not_found("There is no such provider")
        return found

    def _secret(self) -> str:
        return encode_base64_url(self._parts.random_bytes(32))


def check_redirect(url: str) -> None:
    """Checks that a browser may be sent somewhere, and that it reads the address as this server
    does. Raises 400 M_INVALID_PARAM."""
    if len(url) > limits.SSO_REDIRECT_CHARACTERS or not _is_place(url):
        raise invalid_param("redirectUrl isn't an address that a browser may be sent to")


def _is_place(url: str) -> bool:
    scheme = url.partition(":")[0].lower()
    if ":" not in url or not _SCHEME.fullmatch(scheme) or scheme in _RUNNING:
        return False
    if not url.isprintable() or " " in url or "\\" in url:  # browsers read \ as /
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return scheme not in _WEB or (bool(parts.hostname) and "@" not in parts.netloc)


def with_token(url: str, token: str) -> str:
    """Returns the client's address with the token that logs in."""
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = urlencode([*(pair for pair in pairs if pair[0] != "loginToken"), ("loginToken", token)])
    return urlunsplit(parts._replace(query=query))


def is_same_secret(secret: str, sent: str | None) -> bool:
    """Returns whether a browser sent a secret, in a time that doesn't depend on what it sent."""
    return compare_digest(secret.encode(), (sent or "").encode("utf-8", "surrogateescape"))


def _one(answer: Mapping[str, str], name: str) -> str:
    if not answer.get(name):
        raise ProviderFailed(f"it sent no {name} back: {answer.get('error', '')!r}")
    return answer[name]


def _unusable(provider: SsoProvider, error: ProviderFailed) -> MatrixError:
    _log.warning("the provider %s can't be used: %s", provider.id, error)
    return MatrixError(502, "M_UNKNOWN", f"{provider.name} can't log you in now")
