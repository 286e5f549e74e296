"""Reading of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from homeserver import limits
from homeserver.config import Config, ConfigInvalid, Listener, load_config, parse_config

WHOLE = """
server_name = "hs1"
public_baseurl = "http://127.0.0.1:8008/"
data_dir = "data"

[database]
url = "postgresql://user:pass@127.0.0.1/hs1"

[[listeners]]
address = "127.0.0.1:8008"

[[listeners]]
address = "[::1]:8448"
tls_cert_path = "cert.pem"
tls_key_path = "/keys/key.pem"

[registration]
enabled = true
verification = "none"

[rate_limits]
enabled = false
login = { per_second = 1, burst = 5 }

[federation]
ca_paths = ["ca.pem"]
allow_private_addresses = true
address_overrides = { "hs2" = "127.0.0.1:8448" }
trusted_key_servers = ["hs3"]

[push]
ca_paths = ["push.pem", "/keys/push.pem"]
allow_private_addresses = true
"""
FOLDER = Path("/etc/freehold")


def parse(text: str, environment: Mapping[str, str] | None = None) -> Config:
    return parse_config(text, folder=FOLDER, environment=environment or {})


def problems(text: str, environment: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        parse(text, environment)
    return caught.value.problems


def test_every_key_is_read_and_paths_are_relative_to_the_file() -> None:
    config = parse(WHOLE)
    assert config.public_baseurl == "http://127.0.0.1:8008"
    assert config.data_dir == "/etc/freehold/data"
    assert config.signing_key_path == "/etc/freehold/data/signing.key"
    assert config.listeners[1].tls_cert_path == "/etc/freehold/cert.pem"
    assert config.listeners[1].tls_key_path == "/keys/key.pem"
    assert config.listeners[1].host_and_port() == ("::1", 8448)
    assert [listener.is_tls for listener in config.listeners] == [False, True]
    assert config.rate_limits.login.burst == 5
    settings = config.federation_settings()
    assert settings.server_name == "hs1"
    assert settings.ca_paths == ("/etc/freehold/ca.pem",)
    assert settings.address_overrides == {"hs2": "127.0.0.1:8448"}
    assert settings.allow_private_addresses
    assert settings.trusted_key_servers == ("hs3",)
    assert config.push.ca_paths == ("/etc/freehold/push.pem", "/keys/push.pem")
    assert config.push.allow_private_addresses


def test_a_name_is_enough_and_the_defaults_are_closed() -> None:
    config = parse('server_name = "hs1"')
    assert config.database.url == "embedded"
    assert config.default_room_version == "12"
    assert not config.registration.enabled
    assert config.registration.verification == "token"
    assert config.rate_limits.enabled
    assert config.listeners == (Listener(address="127.0.0.1:8008"),)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('servername = "x"', 'servername: there is no such key; did you mean "server_name"?'),
        ("[database]\nur = 1", 'database.ur: there is no such key; did you mean "url"?'),
        (
            '[[listeners]]\naddress = "a:1"\ntls_cert = "x"',
            'listeners[0].tls_cert: there is no such key; did you mean "tls_cert_path"?',
        ),
        ("zzzz = 1\n", "zzzz: there is no such key; there are server_name, public_baseurl,"),
        ("server_name = 5", "server_name: expected a text in quotes, found a whole number"),
        ("listeners = 5", "listeners: expected a list, found a whole number"),
        ("[[listeners]]\naddress = 1", "listeners[0].address: expected a text in quotes, found"),
        ("[[listeners]]", "listeners[0].address is missing"),
        ("database = 5", "database: expected a table, found a whole number"),
        ("[registration]\nenabled = 1", "registration.enabled: expected true or false, found"),
        (
            '[registration]\nverification = "x"',
            "registration.verification: 'x' isn't one of its values",
        ),
        ("[federation]\nca_paths = [1]", "federation.ca_paths[0]: expected a text in quotes"),
        ("[rate_limits.login]\nburst = 5", "rate_limits.login.per_second is missing"),
        ("data_dir = 1", "server_name is missing"),
        ("[server", "The file isn't valid TOML"),
    ],
)
def test_each_mistake_is_named(text: str, problem: str) -> None:
    found = problems(text)
    assert any(one.startswith(problem) for one in found), found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('default_room_version = "99"', 'default_room_version "99" isn\'t one of '),
        ('public_baseurl = "example.org"', "public_baseurl must begin with https:// or http://"),
        ('[database]\nurl = "mysql://x"', 'database.url must be "embedded" or begin with'),
        ("listeners = []", "listeners: at least one is needed"),
        ('[[listeners]]\naddress = "8008"', 'listeners[0].address: "8008" isn\'t host:port'),
        ('[[listeners]]\naddress = "x:99999"', "listeners[0].address"),
        (
            '[[listeners]]\naddress = "x:1"\ntls_key_path = "x"',
            "listeners[0]: tls_cert_path and tls_key_path belong together",
        ),
        ("[rate_limits]\nlogin = { per_second = 0, burst = 1 }", "rate_limits.login: per_second"),
        ('[metrics]\naddress = "x"', "metrics.address"),
        ("[sessions]\nrefreshable_token_s = 0", "sessions: a token holds"),
        ("[sessions]\ntoken_s = -1", "sessions: a token holds"),
        ("[passwords]\niterations = 0", "passwords.iterations: 1 to"),
        (
            f"[passwords]\niterations = {limits.PASSWORD_ITERATIONS_MAX + 1}",
            "passwords.iterations: 1 to",
        ),
        (
            f"[passwords]\nmemory_kib = {limits.PASSWORD_MEMORY_KIB_MIN - 1}",
            "passwords.memory_kib: 32 to",
        ),
        (
            f"[passwords]\nmemory_kib = {limits.PASSWORD_MEMORY_KIB_MAX + 1}",
            "passwords.memory_kib: 32 to",
        ),
        (
            f"[push]\nnotifications_per_room = {limits.PUSH_KEPT_LEAST - 1}",
            "push.notifications_per_room: 1000 to 1000000",
        ),
        (
            f"[push]\nnotifications_per_room = {limits.PUSH_KEPT_MOST + 1}",
            "push.notifications_per_room: 1000 to 1000000",
        ),
        ('[email]\nhost = "x"', "email.sender must be an address"),
        ('[recaptcha]\nsite_key = "x"', "recaptcha: site_key and secret_key belong together"),
        ('[recaptcha]\nverify_url = "x"', "recaptcha: verify_url and script_url must begin"),
        ('[email]\nhost = "x"\nsender = "a@b"', "email: links in mails need public_baseurl"),
        ('[email]\nhost = "x"\nnext_links = ["x"]', "email.next_links must begin with"),
        ('[registration]\nemail = "required"', "registration.email needs a mail server"),
        ('[[terms]]\nid = "a b"\nversion = "1"\ntexts = []', "terms: 'a b' needs an id"),
        (
            (
                '[[terms]]\nid = "a"\nversion = "1"\n'
                'texts = [{language = "en", name = "N", url = "javascript:x"}]'
            ),
            "terms: each url of 'a' must begin with",
        ),
        (
            (
                '[[terms]]\nid = "a"\nversion = "1"\n'
                'texts = [{language = "version", name = "N", url = "https://x"}]'
            ),
            "terms: 'a' has a text in no language",
        ),
        (
            (
                '[[terms]]\nid = "a"\nversion = "1"\ntexts = []\n'
                '[[terms]]\nid = "a"\nversion = "1"\ntexts = []'
            ),
            "terms: each needs an id of its own",
        ),
        ('[email]\nhost = "x"\nsender = "a@b"\nport = 0', "email.port must be between"),
        ('[email]\nhost = "x"\nsender = "a@b"\nuser = "u"', "email: user and password"),
        (
            '[email]\nhost = "x"\nsender = "a@b"\nuser = "u"\npassword = "p"\npassword_path = "p"',
            "email: password and password_path exclude each other",
        ),
        (
            f'[registration]\nshared_secret = "{"x" * (limits.SHARED_SECRET_CHARACTERS - 1)}"',
            "registration.shared_secret is too short",
        ),
    ],
)
def test_values_that_cant_be_are_named(text: str, problem: str) -> None:
    found = problems('server_name = "hs1"\n' + text)
    assert any(one.startswith(problem) for one in found), found


@pytest.mark.parametrize("name", ["", "a b", "a_b", "http://a", "a:123456", "@a:b"])
def test_a_server_name_keeps_to_the_grammar(name: str) -> None:
    assert problems(f'server_name = "{name}"')[0].startswith(f'server_name "{name}"')


def test_the_dearest_and_the_cheapest_hash_are_taken() -> None:
    for iterations, memory_kib in (
        (1, limits.PASSWORD_MEMORY_KIB_MIN),
        (limits.PASSWORD_ITERATIONS_MAX, limits.PASSWORD_MEMORY_KIB_MAX),
    ):
        table = f"[passwords]\niterations = {iterations}\nmemory_kib = {memory_kib}"
        assert parse(f'server_name = "hs1"\n{table}').passwords.iterations == iterations


def test_a_shared_secret_of_the_least_length_is_taken() -> None:
    secret = "x" * limits.SHARED_SECRET_CHARACTERS
    config = parse(f'server_name = "hs1"\n[registration]\nshared_secret = "{secret}"')
    assert config.registration.shared_secret == secret


def test_the_fewest_and_the_most_notifications_of_a_room_are_taken() -> None:
    assert limits.PUSH_EVENTS_UNSUMMED < limits.PUSH_KEPT_LEAST < limits.PUSH_KEPT_DEFAULT
    for kept in (limits.PUSH_KEPT_LEAST, limits.PUSH_KEPT_MOST):
        config = parse(f'server_name = "hs1"\n[push]\nnotifications_per_room = {kept}')
        assert config.push.notifications_per_room == kept


def test_all_mistakes_are_told_at_once() -> None:
    assert len(problems("server_nam = 1\ndata_dir = 5\n[database]\nurl = 1\nx = 2")) == 5


def test_the_environment_overrides_the_file() -> None:
    config = parse(
        WHOLE,
        {
            "FREEHOLD_SERVER_NAME": "other",
            "FREEHOLD_DATABASE__URL": "embedded",
            "FREEHOLD_REGISTRATION__ENABLED": "false",
            "FREEHOLD_REGISTRATION__VERIFICATION": "token",
            "FREEHOLD_RATE_LIMITS__LOGIN__BURST": "7",
            "FREEHOLD_FEDERATION__CA_PATHS": '["a.pem", "b.pem"]',
            "FREEHOLD_LISTENERS": '[{address = "127.0.0.1:1"}]',
            "FREEHOLD_CONFIG": "x",
            "FREEHOLD_TEST_ANY": "x",
            "FREEHOLD_LAB_ANY": "x",
            "PATH": "x",
        },
    )
    assert config.server_name == "other"
    assert config.database.url == "embedded"
    assert not config.registration.enabled
    assert config.registration.verification == "token"
    assert config.rate_limits.login.burst == 7
    assert len(config.federation.ca_paths) == 2
    assert [listener.address for listener in config.listeners] == ["127.0.0.1:1"]


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("FREEHOLD_SERVER_NAM", "x", 'there is no key server_nam; did you mean "server_name"?'),
        ("FREEHOLD_DATABAS__URL", "x", 'there is no table databas; did you mean "database"?'),
        ("FREEHOLD_REGISTRATION__ENABLED", "maybe", "not a TOML value"),
        ("FREEHOLD_SERVER_NAME__X", "1", "there is no table server_name"),
    ],
)
def test_a_variable_without_a_key_is_an_error(variable: str, text: str, problem: str) -> None:
    found = problems(WHOLE, {variable: text})
    assert found[0].startswith(f"{variable}: {problem}"), found


def test_a_variable_for_a_table_that_isnt_one_is_an_error() -> None:
    found = problems('server_name = "x"\ndatabase = 5', {"FREEHOLD_DATABASE__URL": "embedded"})
    assert "FREEHOLD_DATABASE__URL: database isn't a table in the file" in found


def test_a_file_that_cant_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"missing\.toml can't be read"):
        load_config(tmp_path / "missing.toml", {})
    (tmp_path / "latin.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigInvalid, match="can't be read"):
        load_config(tmp_path / "latin.toml", {})


def test_paths_of_e_mail_are_relative_to_the_file() -> None:
    text = (
        'server_name = "hs1"\npublic_baseurl = "https://hs1"\n[email]\n'
        'host = "mail"\nsender = "Freehold <a@b>"\nuser = "u"\n'
        'password_path = "secret"\ntemplates_path = "/t"\n'
    )
    email = parse(text).email
    assert email.password_path.endswith("/secret")
    assert email.password_path.startswith("/")
    assert (email.templates_path, email.ca_path) == ("/t", "")


@pytest.mark.parametrize("over", [0, 1])
def test_documents_to_accept_are_few(over: int) -> None:
    table = '[[terms]]\nid = "{}"\nversion = "1"\ntexts = [{}]\n'
    text = '{language = "en", name = "N", url = "https://x"}'
    tables = "".join(table.format(f"t{one}", text) for one in range(limits.POLICIES + over))
    if over:
        assert problems(f'server_name = "hs1"\n{tables}')[0].startswith("terms: each needs")
    else:
        assert len(parse(f'server_name = "hs1"\n{tables}').terms) == limits.POLICIES
