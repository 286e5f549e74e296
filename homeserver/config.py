"""The configuration: a TOML file, environment variables over it, frozen values out.

Rules:
1. A key that doesn't exist is an error that names the nearest one; a wrong type is an error that
   says what is expected. All problems of a file are reported together.
2. `FREEHOLD_<KEY>` overrides a key, `FREEHOLD_<TABLE>__<KEY>` one of a table:
   `FREEHOLD_SERVER_NAME=example.org`, `FREEHOLD_DATABASE__URL=postgresql://…`. Strings are written
   as they are; other values as in TOML: `FREEHOLD_FEDERATION__CA_PATHS='["ca.pem"]'`. A variable
   with an unknown key is an error, except `FREEHOLD_CONFIG` and names that begin with
   `FREEHOLD_TEST_` or `FREEHOLD_LAB_`.
3. Relative paths are relative to the folder of the configuration file. `signing_key_path` is
   `<data_dir>/signing.key` by default, `media.path` `<data_dir>/media`.

`homeserver.config_check` checks the values against files, ports and certificates.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from federation.events.ids import InvalidIdentifier, ServerName, parse_server_name
from federation.events.room_versions import SUPPORTED
from federation.ports import FederationSettings
from homeserver import limits
from homeserver.config_media import MediaSettings, media_problems
from homeserver.config_values import convert_table, override
from homeserver.rules.accounts.terms import Policy, policy_problems
from homeserver.rules.admin.support import SupportSettings, support_problems
from homeserver.rules.identity.email_settings import EmailSettings, email_problems
from homeserver.rules.sso.providers import SsoProvider, provider_problems


class ConfigInvalid(Exception):
    """The configuration can't be used; `problems` has a sentence for each reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class DatabaseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[database]`: `url` is "embedded" or `postgresql://…`."""

    url: str = "embedded"


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """`[[listeners]]`: client and federation API on `host:port`, by TLS with a certificate.
    `behind_proxy` takes a client's address from the last entry of X-Forwarded-For."""

    address: str
    tls_cert_path: str = ""
    tls_key_path: str = ""
    behind_proxy: bool = False

    @property
    def is_tls(self) -> bool:
        """Returns whether it has a certificate."""
        return bool(self.tls_cert_path)

    def host_and_port(self) -> tuple[str, int]:
        """Returns the parts of the address, without an IPv6 address's brackets. Raises
        ValueError.
        """
        host, colon, port = self.address.rpartition(":")
        if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
            raise ValueError(f'"{self.address}" isn\'t host:port')
        return host.removeprefix("[").removesuffix("]"), int(port)


class RegistrationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[registration]`: the users who may register. "token" requires a registration token: one of
    `tokens`, which any number of people may use, or one that was created with a limit. `email` says
    whether an e-mail address must be confirmed. Programs that know `shared_secret`, if it is
    given, register users by `/_synapse/admin/v1/register`."""

    enabled: bool = False
    verification: Literal["none", "token"] = "token"
    email: Literal["none", "optional", "required"] = "none"
    guests: bool = False
    tokens: tuple[str, ...] = ()
    shared_secret: str = ""


class SessionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[sessions]`: how many seconds an access token holds: that of a client that can refresh it,
    and that of another one, which has to log in again (0: for ever)."""

    refreshable_token_s: int = limits.ACCESS_TOKEN_S
    token_s: int = 0


class PasswordSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[passwords]`: the cost of a password's hash (Argon2id): rounds over so much memory. Stored
    hashes of another cost are made anew at the next log-in."""

    iterations: int = limits.PASSWORD_ITERATIONS
    memory_kib: int = limits.PASSWORD_MEMORY_KIB


class RateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[rate_limits.<name>]`: the tokens gained each second, and the largest number of saved
    tokens.
    """

    per_second: float
    burst: float


class RateLimitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[rate_limits]`: a table for each of `homeserver.rules.accounts.rate_limits.Limit`."""

    enabled: bool = True
    login: RateSettings = RateSettings(per_second=0.2, burst=10)
    login_failures: RateSettings = RateSettings(per_second=0.02, burst=50)
    registration: RateSettings = RateSettings(per_second=0.2, burst=5)
    messages: RateSettings = RateSettings(per_second=5, burst=50)
    joins: RateSettings = RateSettings(per_second=0.5, burst=20)
    invites: RateSettings = RateSettings(per_second=0.5, burst=30)
    remote_invites: RateSettings = RateSettings(per_second=1, burst=50)
    remote_invites_of_user: RateSettings = RateSettings(per_second=0.02, burst=10)
    rooms: RateSettings = RateSettings(per_second=0.2, burst=10)
    pages: RateSettings = RateSettings(per_second=1, burst=50)
    validations: RateSettings = RateSettings(per_second=0.05, burst=20)
    validations_of_email: RateSettings = RateSettings(per_second=0.005, burst=5)
    writes: RateSettings = RateSettings(per_second=10, burst=100)
    reports: RateSettings = RateSettings(per_second=0.05, burst=20)
    reads: RateSettings = RateSettings(per_second=5, burst=50)
    remote_rooms: RateSettings = RateSettings(per_second=0.1, burst=10)
    uploads: RateSettings = RateSettings(per_second=2, burst=50)
    downloads: RateSettings = RateSettings(per_second=50, burst=500)
    previews: RateSettings = RateSettings(per_second=0.5, burst=30)

    def rates(self) -> dict[str, RateSettings]:
        """Returns the rates by name."""
        names = [field.name for field in msgspec.structs.fields(self)]
        return {name: getattr(self, name) for name in names if name != "enabled"}


class FederationTable(msgspec.Struct, frozen=True, kw_only=True):
    """`[federation]`: discovery and trust of other servers. `address_overrides` maps a server name
    to an address and replaces its DNS, `.well-known` and SRV. `delegated_name` (host:port) is
    served at `/.well-known/matrix/server`, if given."""

    ca_paths: tuple[str, ...] = ()
    address_overrides: dict[str, str] = {}
    allow_private_addresses: bool = False
    trusted_key_servers: tuple[str, ...] = ()
    delegated_name: str = ""


class PushSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[push]`: trust of push gateways, and how many events that notified somebody are kept of each
    room."""

    ca_paths: tuple[str, ...] = ()
    allow_private_addresses: bool = False
    notifications_per_room: int = limits.PUSH_KEPT_DEFAULT


class PresenceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[presence]`: who is told which users are online: nobody, the users of this server who share
    a room with them, or other servers as well."""

    mode: Literal["off", "local", "on"] = "local"

    @property
    def is_on(self) -> bool:
        """Returns whether anybody is told."""
        return self.mode != "off"

    @property
    def is_federated(self) -> bool:
        """Returns whether other servers are told, and heard."""
        return self.mode == "on"


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[log]`: to standard error. `access` adds a line for each request."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    access: bool = False


class IdentitySettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[identity]`: the identity servers that users may name; without any, all."""

    servers: tuple[str, ...] = ()


class RecaptchaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[recaptcha]`: new users solve a captcha, if `site_key` is given. `verify_url` is asked
    whether they did, with `secret_key`; `script_url` is what browsers load."""

    site_key: str = ""
    secret_key: str = ""
    verify_url: str = "https://www.google.com/recaptcha/api/siteverify"
    script_url: str = "https://www.recaptcha.net/recaptcha/api.js"


class SsoSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[sso]`: the providers of single sign-on, and addresses of clients that a browser may be sent
    to, with a token that logs in, without asking the user first."""

    trusted_redirects: tuple[str, ...] = ()
    providers: tuple[SsoProvider, ...] = ()


class MetricsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[metrics]`: `address` (host:port) serves Prometheus' text at `/metrics`, if given."""

    address: str = ""


class AppServiceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[appservices]`: `registrations` are files, or folders of files, each with the registration
    of an application service."""

    registrations: tuple[str, ...] = ()


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration; paths are absolute."""

    server_name: str
    public_baseurl: str = ""
    data_dir: str = "data"
    signing_key_path: str = ""
    default_room_version: str = "12"
    database: DatabaseSettings = DatabaseSettings()
    media: MediaSettings = MediaSettings()
    listeners: tuple[Listener, ...] = (Listener(address="127.0.0.1:8008"),)
    registration: RegistrationSettings = RegistrationSettings()
    sessions: SessionSettings = SessionSettings()
    passwords: PasswordSettings = PasswordSettings()
    rate_limits: RateLimitSettings = RateLimitSettings()
    federation: FederationTable = FederationTable()
    push: PushSettings = PushSettings()
    presence: PresenceSettings = PresenceSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    email: EmailSettings = EmailSettings()
    identity: IdentitySettings = IdentitySettings()
    sso: SsoSettings = SsoSettings()
    recaptcha: RecaptchaSettings = RecaptchaSettings()
    terms: tuple[Policy, ...] = ()
    appservices: AppServiceSettings = AppServiceSettings()
    support: SupportSettings = SupportSettings()

    @property
    def media_folder(self) -> Path:
        """The folder of media on the local disk."""
        return Path(self.media.path) if self.media.path else Path(self.data_dir) / "media"

    def federation_settings(self) -> FederationSettings:
        """Returns the settings of `federation.transport`."""
        return FederationSettings(
            server_name=ServerName(self.server_name),
            ca_paths=self.federation.ca_paths,
            address_overrides=self.federation.address_overrides,
            allow_private_addresses=self.federation.allow_private_addresses,
            trusted_key_servers=tuple(map(ServerName, self.federation.trusted_key_servers)),
        )


def load_config(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Loads the configuration from a file and the environment. Raises ConfigInvalid."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid([f"{path} can't be read: {error}"]) from error
    return parse_config(text, folder=path.absolute().parent, environment=environment)


def parse_config(text: str, *, folder: Path, environment: Mapping[str, str]) -> Config:
    """Returns the configuration as `load_config` does, from the file's text."""
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid([f"The file isn't valid TOML: {error}"]) from error
    problems = override(table, Config, environment)
    config, more = convert_table(table, Config)
    problems += more
    if config is not None:
        problems += _value_problems(config)
    if problems or config is None:
        raise ConfigInvalid(problems)
    return _with_paths(config, folder)


def _value_problems(config: Config) -> list[str]:
    """Returns the problems of single values, without looking at files or ports."""
    problems = []
    try:
        parse_server_name(config.server_name)
    except InvalidIdentifier as error:
        problems.append(f'server_name "{config.server_name}": {error}')
    if config.default_room_version not in SUPPORTED:
        versions = ", ".join(SUPPORTED)
        problems.append(
            f'default_room_version "{config.default_room_version}" isn\'t one of {versions}'
        )
    if config.public_baseurl and not config.public_baseurl.startswith(("http://", "https://")):
        problems.append("public_baseurl must begin with https:// or http://")
    secret = config.registration.shared_secret
    if secret and len(secret) < limits.SHARED_SECRET_CHARACTERS:
        problems.append(
            "registration.shared_secret is too short: a random one of at least"
            f" {limits.SHARED_SECRET_CHARACTERS} characters is needed"
        )
    sessions = config.sessions
    if sessions.refreshable_token_s < 1 or sessions.token_s < 0:
        problems.append("sessions: a token holds for at least a second (token_s = 0: for ever)")
    problems += _password_problems(config.passwords)
    if not limits.PUSH_KEPT_LEAST <= config.push.notifications_per_room <= limits.PUSH_KEPT_MOST:
        least, most = limits.PUSH_KEPT_LEAST, limits.PUSH_KEPT_MOST
        problems.append(f"push.notifications_per_room: {least} to {most}")
    url = config.database.url
    if url != "embedded" and not url.startswith(("postgresql://", "postgres://")):
        problems.append('database.url must be "embedded" or begin with postgresql://')
    return [
        *problems,
        *media_problems(config.media),
        *_listener_problems(config),
        *_rate_problems(config),
        *email_problems(config.email, config.public_baseurl, config.registration.email),
        *policy_problems(config.terms),
        *_captcha_problems(config.recaptcha),
        *provider_problems(config.sso.providers, config.public_baseurl),
        *support_problems(config.support),
    ]


def _password_problems(passwords: PasswordSettings) -> list[str]:
    problems = []
    if not 1 <= passwords.iterations <= limits.PASSWORD_ITERATIONS_MAX:
        problems.append(f"passwords.iterations: 1 to {limits.PASSWORD_ITERATIONS_MAX}")
    least, most = limits.PASSWORD_MEMORY_KIB_MIN, limits.PASSWORD_MEMORY_KIB_MAX
    if not least <= passwords.memory_kib <= most:
        problems.append(f"passwords.memory_kib: {least} to {most}")
    return problems


def _listener_problems(config: Config) -> list[str]:
    problems = []
    if not config.listeners:
        problems.append("listeners: at least one is needed")
    for index, listener in enumerate(config.listeners):
        try:
            listener.host_and_port()
        except ValueError as error:
            problems.append(f"listeners[{index}].address: {error}")
        if bool(listener.tls_cert_path) != bool(listener.tls_key_path):
            problems.append(f"listeners[{index}]: tls_cert_path and tls_key_path belong together")
    if config.metrics.address:
        try:
            Listener(address=config.metrics.address).host_and_port()
        except ValueError as error:
            problems.append(f"metrics.address: {error}")
    return problems


def _captcha_problems(captcha: RecaptchaSettings) -> list[str]:
    problems = []
    if bool(captcha.site_key) != bool(captcha.secret_key):
        problems.append("recaptcha: site_key and secret_key belong together")
    urls = (captcha.verify_url, captcha.script_url)
    if any(not url.startswith(("https://", "http://")) for url in urls):
        problems.append("recaptcha: verify_url and script_url must begin with https:// or http://")
    return problems


def _rate_problems(config: Config) -> list[str]:
    return [
        f"rate_limits.{name}: per_second must be above 0, burst at least 1"
        for name, rate in config.rate_limits.rates().items()
        if rate.per_second <= 0 or rate.burst < 1
    ]


def _with_paths(config: Config, folder: Path) -> Config:
    """Returns the configuration with absolute paths."""
    data_dir = folder / config.data_dir
    signing_key = folder / config.signing_key_path if config.signing_key_path else None
    return msgspec.structs.replace(
        config,
        data_dir=str(data_dir),
        signing_key_path=str(signing_key or data_dir / "signing.key"),
        public_baseurl=config.public_baseurl.rstrip("/"),
        media=msgspec.structs.replace(
            config.media, path=str(folder / config.media.path) if config.media.path else ""
        ),
        listeners=tuple(_absolute(listener, folder) for listener in config.listeners),
        federation=msgspec.structs.replace(
            config.federation,
            ca_paths=tuple(str(folder / path) for path in config.federation.ca_paths),
        ),
        email=_absolute_email(config.email, folder),
        push=msgspec.structs.replace(
            config.push, ca_paths=tuple(str(folder / path) for path in config.push.ca_paths)
        ),
        appservices=AppServiceSettings(
            registrations=tuple(str(folder / one) for one in config.appservices.registrations)
        ),
    )


def _absolute_email(email: EmailSettings, folder: Path) -> EmailSettings:
    paths = {
        name: str(folder / path)
        for name in ("password_path", "templates_path", "ca_path")
        if (path := getattr(email, name))
    }
    return msgspec.structs.replace(email, **paths)


def _absolute(listener: Listener, folder: Path) -> Listener:
    if not listener.is_tls:
        return listener
    return msgspec.structs.replace(
        listener,
        tls_cert_path=str(folder / listener.tls_cert_path),
        tls_key_path=str(folder / listener.tls_key_path),
    )
