"""What the registration of an application service says, and what is wrong with it.

Rules:
1. A problem names the file and the field. All problems of a file are reported together.
2. Fields that the specification doesn't have are ignored, but for the names that bridges use for
   what they want to be sent: `push_ephemeral`, and `org.matrix.msc3202` for what encryption needs.
3. An ID or `as_token` that two registrations have is a problem of both.
4. Tokens aren't in the text of a value or a problem, and are compared in constant time.

Spec: application service API, "Registration"; MSC2409 and MSC3202 for the unstable names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from federation.bounded_cache import BoundedCache
from federation.events.ids import (
    InvalidIdentifier,
    RoomAlias,
    ServerName,
    UserId,
    parse_user_id,
    server_of,
)
from homeserver import limits
from homeserver.rules.appservices.patterns import InvalidPattern, Pattern

_EPHEMERAL = ("receive_ephemeral", "push_ephemeral", "de.sorunome.msc2409.push_ephemeral")
_ENCRYPTION = "org.matrix.msc3202"
_KINDS = ("users", "aliases", "rooms")

Problems: TypeAlias = list[str]


@dataclass(frozen=True, slots=True)
class Namespace:
    """Identifiers that a pattern describes; `is_exclusive`: nobody else may make such ones."""

    pattern: Pattern
    is_exclusive: bool


@dataclass(frozen=True, slots=True, eq=False)
class Namespaces:
    """The namespaces of one kind."""

    entries: tuple[Namespace, ...] = ()
    _results: BoundedCache[str, tuple[bool, bool]] = field(
        default_factory=lambda: BoundedCache(limits.PATTERN_RESULTS), repr=False
    )

    def has(self, identifier: str) -> bool:
        """Returns whether the identifier is in one of them."""
        return self._find(identifier)[0]

    def has_alone(self, identifier: str) -> bool:
        """Returns whether the identifier is in an exclusive one."""
        return self._find(identifier)[1]

    def _find(self, identifier: str) -> tuple[bool, bool]:
        if not self.entries:
            return False, False
        known = self._results.get(identifier)
        if known is None:
            fitting = [one for one in self.entries if one.pattern.matches(identifier)]
            known = bool(fitting), any(one.is_exclusive for one in fitting)
            self._results.put(identifier, known)
        return known


@dataclass(frozen=True, slots=True, eq=False)
class AppService:
    """One application service. `url` None: nothing is sent to it. `is_limited`: rate limits apply
    to its users other than its `sender`. `wants_ephemeral`: typing, receipts and to-device messages
    are sent to it; `wants_encryption`: also what its users' devices need to encrypt."""

    service_id: str
    url: str | None
    as_token: str = field(repr=False)
    hs_token: str = field(repr=False)
    sender: UserId
    users: Namespaces = Namespaces()
    aliases: Namespaces = Namespaces()
    rooms: Namespaces = Namespaces()
    protocols: tuple[str, ...] = ()
    is_limited: bool = True
    wants_ephemeral: bool = False
    wants_encryption: bool = False

    def owns_user(self, user_id: UserId) -> bool:
        """Returns whether it may act as a local user, and is told of what concerns them."""
        if user_id == self.sender:
            return True
        return server_of(user_id) == server_of(self.sender) and self.users.has(user_id)

    def owns_user_alone(self, user_id: UserId) -> bool:
        """Returns whether nobody else may make this local user."""
        if user_id == self.sender:
            return True
        return server_of(user_id) == server_of(self.sender) and self.users.has_alone(user_id)

    def is_limited_as(self, user_id: UserId) -> bool:
        """Returns whether rate limits apply to its requests as a user."""
        return self.is_limited and user_id != self.sender


class AppServices:
    """All registered application services, in the order of the configuration."""

    def __init__(self, services: Sequence[AppService] = ()) -> None:
        self._services = tuple(services)

    def __iter__(self) -> Iterator[AppService]:
        return iter(self._services)

    def of_token(self, token: str) -> AppService | None:
        """Returns the service with an `as_token`. Compares with all, each in constant time."""
        given = token.encode("utf-8", "surrogateescape")
        found = None
        for service in self._services:
            if compare_digest(given, service.as_token.encode()):
                found = service
        return found

    def of_id(self, service_id: str) -> AppService | None:
        """Returns the service with an ID."""
        return next((one for one in self._services if one.service_id == service_id), None)

    def is_user_taken(self, user_id: UserId, by: AppService | None) -> bool:
        """Returns whether a user is in an exclusive namespace of a service other than `by`."""
        return any(one is not by and one.owns_user_alone(user_id) for one in self._services)

    def is_alias_taken(self, alias: RoomAlias, by: AppService | None) -> bool:
        """Returns whether an alias is in an exclusive namespace of a service other than `by`."""
        return any(one is not by and one.aliases.has_alone(alias) for one in self._services)

    def for_user(self, user_id: UserId) -> Iterator[AppService]:
        """Yields the services to ask about a user who doesn't exist."""
        return (one for one in self._services if one.owns_user(user_id))

    def for_alias(self, alias: RoomAlias) -> Iterator[AppService]:
        """Yields the services to ask about an alias that doesn't exist."""
        return (one for one in self._services if one.aliases.has(alias))

    def for_protocol(self, protocol: str | None) -> Iterator[AppService]:
        """Yields the services that provide a protocol; None: any."""
        return (
            one
            for one in self._services
            if (one.protocols if protocol is None else protocol in one.protocols)
        )


def parse_registration(
    data: object, where: str, server_name: ServerName
) -> tuple[AppService | None, Problems]:
    """Returns what a registration says, or None with all that is wrong with it. `data` is what its
    YAML says, `where` the name of its file."""
    if not isinstance(data, dict):
        return None, [f"{where}: the file isn't a YAML mapping of fields to values"]
    fields = _Fields(data, where)
    service_id = fields.text("id", limits.IDENTIFIER_BYTES)
    url = fields.url()
    as_token, hs_token = fields.token("as_token"), fields.token("hs_token")
    sender = fields.sender(server_name)
    spaces = fields.namespaces()
    protocols = fields.protocols()
    is_limited = fields.flag("rate_limited", default=True)
    asks_for = {name: fields.flag(name, default=False) for name in _EPHEMERAL}
    wants_encryption = fields.flag(_ENCRYPTION, default=False)
    if fields.problems:
        return None, fields.problems
    return AppService(
        service_id,
        url,
        as_token,
        hs_token,
        UserId(sender),
        **spaces,
        protocols=protocols,
        is_limited=is_limited,
        wants_ephemeral=any(asks_for.values()),
        wants_encryption=wants_encryption,
    ), []


def find_repeats(services: Sequence[tuple[str, AppService]]) -> Problems:
    """Returns the problems of registrations, each with the name of its file, that have an ID or a
    token of another one."""
    problems = []
    ids: dict[str, str] = {}
    tokens: dict[str, str] = {}
    for where, service in services:
        if (first := ids.setdefault(service.service_id, where)) != where:
            problems.append(f'{where}: id "{service.service_id}" is also in {first}')
        if (first := tokens.setdefault(service.as_token, where)) != where:
            problems.append(f"{where}: as_token is also in {first}")
    return problems


class _Fields:
    """Reads fields, and notes what is wrong with them."""

    def __init__(self, data: Mapping[Any, Any], where: str) -> None:
        self._data, self._where = data, where
        self.problems: Problems = []

    def _note(self, name: str, problem: str) -> None:
        self.problems.append(f"{self._where}: {name} {problem}")

    def text(self, name: str, bytes_most: int) -> str:
        """Returns a text that has to be there."""
        value = self._data.get(name)
        if value is None:
            self._note(name, "is missing")
        elif not isinstance(value, str):
            self._note(name, "must be a text")
        elif not value or "\0" in value or len(value.encode(errors="replace")) > bytes_most:
            self._note(name, f"must have between 1 and {bytes_most} bytes, and no NUL")
        else:
            return value
        return ""

    def token(self, name: str) -> str:
        """Returns a token: it goes into a header, so it has visible ASCII characters alone."""
        value = self.text(name, limits.IDENTIFIER_BYTES)
        if value and not (value.isascii() and value.isprintable() and " " not in value):
            self._note(name, "may have only visible ASCII characters")
        return value

    def url(self) -> str | None:
        """Returns the URL without a slash at its end; None where nothing is sent."""
        if "url" not in self._data:
            self._note("url", "is missing (null, if nothing is to be sent)")
            return None
        value = self._data["url"]
        if value is None or value == "":
            return None
        if not isinstance(value, str) or not _is_web_address(value):
            self._note("url", "must be null, or begin with http:// or https:// and a host")
            return None
        return value.rstrip("/")

    def sender(self, server_name: ServerName) -> str:
        """Returns the service's own user.

        Bridges choose capitals too (mautrix's write 64 random characters of URL-safe Base64), so
        all historical user IDs that aren't "non-compliant" are accepted. Spec: appendices,
        "Historical User IDs".
        """
        value = self.text("sender_localpart", limits.IDENTIFIER_BYTES)
        if not value:
            return ""
        if not all("!" <= character <= "~" and character != ":" for character in value):
            self._note("sender_localpart", "may have only visible ASCII characters other than ':'")
            return ""
        try:
            return parse_user_id(f"@{value}:{server_name}")
        except InvalidIdentifier as error:
            self._note("sender_localpart", f"isn't a user's name: {error}")
            return ""

    def flag(self, name: str, *, default: bool) -> bool:
        """Returns a flag."""
        value = self._data.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self._note(name, "must be true or false")
        return value is True

    def protocols(self) -> tuple[str, ...]:
        """Returns the names of protocols."""
        value = self._data.get("protocols")
        if value is None:
            return ()
        if not isinstance(value, list) or not all(_is_name(one) for one in value):
            self._note("protocols", "must be a list of texts")
            return ()
        return tuple(value)

    def namespaces(self) -> dict[str, Namespaces]:
        """Returns the namespaces of users, aliases and rooms."""
        value = self._data.get("namespaces")
        if value is None:
            self._note("namespaces", "is missing")
        elif not isinstance(value, dict):
            self._note("namespaces", "must have users, aliases and rooms")
        else:
            return {kind: self._kind(kind, value.get(kind)) for kind in _KINDS}
        return {}

    def _kind(self, kind: str, value: object) -> Namespaces:
        name = f"namespaces.{kind}"
        if value is None:
            return Namespaces()
        if not isinstance(value, list):
            self._note(name, "must be a list")
            return Namespaces()
        if len(value) > limits.NAMESPACES:
            self._note(name, f"has more than {limits.NAMESPACES} entries")
            return Namespaces()
        found = [self._namespace(f"{name}[{at}]", entry) for at, entry in enumerate(value)]
        return Namespaces(tuple(one for one in found if one is not None))

    def _namespace(self, name: str, entry: object) -> Namespace | None:
        if not isinstance(entry, dict):
            self._note(name, "must have regex and exclusive")
            return None
        regex, is_exclusive = entry.get("regex"), entry.get("exclusive")
        if not isinstance(is_exclusive, bool):
            self._note(f"{name}.exclusive", "must be true or false")
        if not isinstance(regex, str):
            self._note(f"{name}.regex", "must be a text")
            return None
        try:
            return Namespace(Pattern(regex), is_exclusive is True)
        except InvalidPattern as error:
            self._note(f"{name}.regex", str(error))
            return None


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= limits.IDENTIFIER_BYTES


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        is_known = parts.scheme in ("http", "https") and bool(parts.hostname)
        return is_known and parts.port != 0 and not parts.query and not parts.fragment
    except ValueError:
        return False
