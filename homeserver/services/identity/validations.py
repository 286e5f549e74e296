"""Proofs that somebody owns an e-mail address, by a link in a mail.

Rules:
1. A proof is for one purpose: what was confirmed to make an account can't set another's password.
2. The mail has a random token, which works once, within `VALIDATION_S`; only its hash is stored,
   like that of the client's secret. The proof is used up by what it was made for.
3. A repeated request (the same address and secret, an attempt no newer than the last) gets the
   same session, and no mail. A newer attempt's mail makes the links of older ones useless.
4. Opening the link shows a page with a button, which posts: programs that open links in mails to
   look for malware confirm nothing.
5. Unless the configuration says otherwise, an answer doesn't reveal whether an address belongs to
   an account: its owner is told by mail.

Spec: client-server API, "Account registration and management", "Adding Account Administrative
Contact Information"; identity service API, "Establishing associations".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from hmac import compare_digest
from typing import NamedTuple
from urllib.parse import urlencode

from federation.causes import current_cause
from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.signing import encode_base64_url
from federation.ports import Clock
from homeserver import limits
from homeserver.errors import invalid_param, unavailable
from homeserver.outbound.mail.sender import MailQueueFull, MailSender
from homeserver.rules.accounts.login_flows import Session
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.identity.email_addresses import InvalidEmail, canonical_email
from homeserver.rules.identity.third_party_ids import EMAIL, is_opaque, is_within
from homeserver.services.accounts.rate_limits import RateLimiter, limit_exceeded
from homeserver.storage.database import Database
from homeserver.storage.identity.third_party_ids import ThirdPartyIdTable
from homeserver.storage.identity.validations import NewValidation, Validation, ValidationTable

PAGE = "/_matrix/client/unstable/freehold/validate_email"
"""The page that the links in mails open."""


class Purpose(Enum):
    """What a proof is for."""

    REGISTRATION = "registration"
    ADDITION = "addition"
    PASSWORD = "password"


_TEMPLATES = {
    Purpose.REGISTRATION: "confirm_registration",
    Purpose.ADDITION: "confirm_address",
    Purpose.PASSWORD: "reset_password",
}

PURPOSES = {"register": Purpose.REGISTRATION, "change password": Purpose.PASSWORD}
"""By the operations that have the stage m.login.email.identity."""


class TokenRequest(NamedTuple):
    """The parameters of a request for a mail."""

    email: str
    client_secret: str
    send_attempt: int
    next_link: str | None


class Confirmed(NamedTuple):
    """A link that can be used, or was: the address, and where the browser goes afterwards."""

    address: str
    next_link: str | None


@dataclass(frozen=True, slots=True)
class ValidationSettings:
    """Where this server's pages are, below which links browsers may go afterwards, and whether an
    answer may reveal that an address belongs to an account."""

    public_baseurl: str
    next_links: tuple[str, ...] = ()
    reveals_addresses: bool = False


@dataclass(frozen=True, slots=True)
class ValidationParts:
    """The dependencies of `EmailValidations`; `mail` None: there is no mail server."""

    mail: MailSender | None
    limiter: RateLimiter
    clock: Clock
    random_bytes: Callable[[int], bytes]


class EmailValidations:
    """Sends mails with links, and knows which proofs were made."""

    def __init__(
        self, database: Database, parts: ValidationParts, settings: ValidationSettings
    ) -> None:
        self._validations = ValidationTable(database)
        self._third_party_ids = ThirdPartyIdTable(database)
        self._parts, self._settings = parts, settings

    @property
    def is_possible(self) -> bool:
        """Returns whether there is a mail server."""
        return self._parts.mail is not None

    def make_secret(self) -> str:
        """Returns a client's secret, for a page that stands for a client."""
        return self._parts.random_bytes(limits.VALIDATION_BYTES).hex()

    def count_page(self) -> None:
        """Counts a request that a page makes on behalf of a client, as the client's own would be.
        Raises 429."""
        self._parts.limiter.check(Limit.VALIDATIONS, current_cause().name)

    async def request(self, purpose: Purpose, wanted: TokenRequest) -> str:
        """Sends a mail and returns the ID of the session. Raises 400 M_INVALID_PARAM,
        M_THREEPID_MEDIUM_NOT_SUPPORTED without a mail server, M_THREEPID_IN_USE or
        M_THREEPID_NOT_FOUND if that may be revealed, 429, 503."""
        if (mail := self._parts.mail) is None:
            raise medium_not_supported()
        address = self._check(wanted)
        self._parts.limiter.check(Limit.VALIDATIONS_OF_EMAIL, address)
        is_known = await self._third_party_ids.find_owner(EMAIL, address) is not None
        is_fitting = is_known == (purpose is Purpose.PASSWORD)
        if not is_fitting and self._settings.reveals_addresses:
            raise _in_use() if is_known else _not_found()
        now_ms = self._parts.clock.now_ms()
        token = encode_base64_url(self._parts.random_bytes(limits.VALIDATION_BYTES))
        begun = await self._validations.begin(
            NewValidation(
                sid=encode_base64_url(self._parts.random_bytes(18)),
                purpose=purpose.value,
                address=address,
                secret_hash=_hash(wanted.client_secret),
                send_attempt=wanted.send_attempt,
                token_hash=_hash(token) if is_fitting else None,
                next_link=wanted.next_link if self._settings.next_links else None,
                expires_ms=now_ms + limits.VALIDATION_S * 1000,
                now_ms=now_ms,
            )
        )
        if begun is None:
            raise limit_exceeded(limits.VALIDATION_S)
        if begun.is_new:
            template = _TEMPLATES[purpose] if is_fitting else "address_in_use"
            if is_fitting or is_known:
                self._send(mail, address, template, self._link(begun.sid, token))
        return begun.sid

    async def find_link(self, sid: str, token: str) -> Confirmed | None:
        """Returns what a link in a mail is about; None if it can't be used (any more)."""
        found = await self._load(sid)
        if found is None or not _is_token(found, token):
            return None
        return Confirmed(found.address, found.next_link)

    async def confirm(self, sid: str, token: str) -> Confirmed | None:
        """Notes that a link was used; None if it can't be used (any more)."""
        now_ms = self._parts.clock.now_ms()
        found = await self._load(sid)
        if found is None or not _is_token(found, token):
            return None
        expires_ms = now_ms + limits.VALIDATION_S * 1000
        if not await self._validations.validate(
            sid, _hash(token), now_ms=now_ms, expires_ms=expires_ms
        ):
            return None
        return Confirmed(found.address, found.next_link)

    async def find_proof(self, purpose: Purpose, credentials: JsonObject) -> str | None:
        """Returns the session of `{sid, client_secret}` if its address was confirmed for this
        purpose, for `storage.identity.validations.take`; None otherwise."""
        sid, secret = credentials.get("sid"), credentials.get("client_secret")
        if not isinstance(sid, str) or not isinstance(secret, str):
            return None
        found = await self._load(sid)
        if found is None or found.purpose != purpose.value or found.validated_ms is None:
            return None
        is_right = is_opaque(secret) and compare_digest(found.secret_hash, _hash(secret))
        return sid if is_right else None

    async def prove_stage(self, session: Session, auth: JsonObject) -> str | None:
        """Returns the session of the stage m.login.email.identity, confirmed for the operation
        that it is a stage of; None otherwise."""
        credentials = auth.get("threepid_creds") or auth.get("threepidCreds")
        purpose = PURPOSES.get(session.operation)
        if purpose is None or not isinstance(credentials, dict):
            return None
        return await self.find_proof(purpose, credentials)

    def _check(self, wanted: TokenRequest) -> str:
        """Returns the canonical address. Raises 400 M_INVALID_PARAM."""
        if not is_opaque(wanted.client_secret):
            raise invalid_param("client_secret must be 1 to 255 of 0-9, a-z, A-Z, . = _ -")
        if not 0 <= wanted.send_attempt < 2**53:
            raise invalid_param("send_attempt must be a whole number, 0 or more")
        link, allowed = wanted.next_link, self._settings.next_links
        if link is not None and allowed and not (
            len(link) <= limits.NEXT_LINK_CHARACTERS and is_within(link, allowed)
        ):  # fmt: skip
            raise invalid_param("next_link leads to a place that this server doesn't allow")
        try:
            return canonical_email(wanted.email)
        except InvalidEmail as error:
            raise invalid_param(str(error)) from error

    def _link(self, sid: str, token: str) -> str:
        query = urlencode({"sid": sid, "token": token})
        return f"{self._settings.public_baseurl}{PAGE}?{query}"

    def _send(self, mail: MailSender, address: str, template: str, link: str) -> None:
        values = {"link": link, "hours": limits.VALIDATION_S // 3600}
        try:
            mail.queue(address, template, values)
        except MailQueueFull as error:
            raise unavailable("Too many mails wait to be sent") from error

    async def _load(self, sid: str) -> Validation | None:
        if not is_opaque(sid):
            return None
        return await self._validations.load(sid, self._parts.clock.now_ms())


def _is_token(found: Validation, token: str) -> bool:
    return found.token_hash is not None and compare_digest(found.token_hash, _hash(token))


def _hash(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogateescape")).digest()


def medium_not_supported() -> MatrixError:
    """400 M_THREEPID_MEDIUM_NOT_SUPPORTED."""
    return MatrixError(
        400, "M_THREEPID_MEDIUM_NOT_SUPPORTED", "This server can't reach such addresses"
    )


def _in_use() -> MatrixError:
    return MatrixError(400, "M_THREEPID_IN_USE", "This address belongs to an account already")


def _not_found() -> MatrixError:
    return MatrixError(400, "M_THREEPID_NOT_FOUND", "No account has this address")
