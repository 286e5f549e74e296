"""URLs and addresses that users may have fetched."""

import pytest
import yarl

from homeserver import limits
from homeserver.rules.media.web_addresses import (
    InvalidWebAddress,
    WebPolicy,
    join_web_address,
    parse_networks,
    parse_web_address,
)

OPEN = WebPolicy()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://matrix.org", "https://matrix.org/"),
        ("https://matrix.org?a", "https://matrix.org/?a"),
        (" http://matrix.org/a?b=c#d ", "http://matrix.org/a?b=c"),
        ("https://xn--ls8h.la/", "https://xn--ls8h.la/"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"),
        ("HTTPS://MATRIX.org:443/", "https://matrix.org/"),
        ("http://[2606:4700::1111]/", "http://[2606:4700::1111]/"),
    ],
)
def test_a_url_is_normalised(text: str, url: str) -> None:
    assert str(parse_web_address(text, OPEN)) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "matrix.org",
        "/path",
        "//matrix.org/",
        "ftp://matrix.org/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "data:text/html,x",
        "http:///x",
        "https://user@matrix.org/",
        "https://user:password@matrix.org/",
        "https://:password@matrix.org/",
        "https://matrix.org:22/",
        "http://matrix.org:6379/",
        "http://matrix.org:99999/",
        "http://[::1/",
        "http://[fe80::1%25eth0]/",
        "http://" + "a" * 300 + ".example:x/",
        "http://a\u05d0.example/",
        f"http://{'ä' * 60}.example/",
        "http://xn--a/",
        "http://xn--zzzzzzzz.example/",
    ],
)
def test_what_is_not_a_web_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidWebAddress):
        parse_web_address(text, OPEN)


def test_a_url_is_bounded() -> None:
    url = "https://a.example/"
    longest = url + "x" * (limits.PREVIEW_URL_CHARACTERS - len(url))
    assert str(parse_web_address(longest, OPEN)) == longest
    with pytest.raises(InvalidWebAddress):
        parse_web_address(longest + "x", OPEN)
    with pytest.raises(InvalidWebAddress):
        join_web_address(yarl.URL(url), "x" * (limits.PREVIEW_URL_CHARACTERS + 1), OPEN)


def test_a_relative_url_is_joined_and_checked() -> None:
    base = yarl.URL("https://a.example/x/y")
    assert str(join_web_address(base, "../z?q", OPEN)) == "https://a.example/z?q"
    assert str(join_web_address(base, "//b.example/", OPEN)) == "https://b.example/"
    for text in ("file:///etc/passwd", "http://b.example:22/", "data:image/png;base64,AAAA"):
        with pytest.raises(InvalidWebAddress):
            join_web_address(base, text, OPEN)


def test_hosts_are_denied_with_what_is_below_them() -> None:
    policy = WebPolicy(denied_hosts=("evil.example",))
    for host in ("evil.example", "www.EVIL.example", "evil.example."):
        with pytest.raises(InvalidWebAddress):
            parse_web_address(f"https://{host}/", policy)
    assert parse_web_address("https://notevil.example/", policy)


def test_only_allowed_hosts_if_there_is_a_list() -> None:
    policy = WebPolicy(allowed_hosts=("good.example",), denied_hosts=("bad.good.example",))
    assert parse_web_address("https://www.good.example/", policy)
    for host in ("other.example", "bad.good.example"):
        with pytest.raises(InvalidWebAddress):
            parse_web_address(f"https://{host}/", policy)


@pytest.mark.parametrize(
    ("address", "is_permitted"),
    [
        ("8.8.8.8", True),
        ("10.0.0.1", False),
        ("10.7.0.1", True),
        ("::ffff:10.7.0.1", True),
        ("64:ff9b::a07:1", True),
        ("10.7.9.1", False),
        ("8.8.4.4", False),
        ("::ffff:8.8.4.4", False),
        ("64:ff9b::808:404", False),
        ("fd00::1", True),
        ("fd01::1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_networks_of_the_configuration(address: str, is_permitted: bool) -> None:
    policy = WebPolicy(
        allowed_networks=parse_networks(["10.7.0.0/16", "fd00::/32"]),
        denied_networks=parse_networks(["8.8.4.4", "10.7.9.0/24"]),
    )
    assert policy.permits_address(address) is is_permitted


def test_a_network_with_host_bits_is_refused() -> None:
    with pytest.raises(ValueError):
        parse_networks(["10.0.0.1/8"])
