"""Web addresses that other servers name."""

import pytest

from federation.transport.requests.urls import WebUrl, parse_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://cdn.test/a/b?c=d", WebUrl("cdn.test", 443, "cdn.test", "/a/b?c=d")),
        ("https://CDN.test:8443", WebUrl("cdn.test", 8443, "CDN.test:8443", "/")),
        ("https://[2001:db8::1]/x#y", WebUrl("2001:db8::1", 443, "[2001:db8::1]", "/x")),
        ("https://10.0.0.1?x", WebUrl("10.0.0.1", 443, "10.0.0.1", "/?x")),
    ],
)
def test_a_url_has_a_host_and_a_target(text: str, url: WebUrl) -> None:
    assert parse_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/relative",
        "//cdn.test/x",
        "http://cdn.test/x",
        "file:///etc/passwd",
        "https:///x",
        "https://user@cdn.test/x",
        "https://user:secret@cdn.test/x",
        "https://cdn.test:0/x",
        "https://cdn.test:65536/x",
        "https://cdn.test:x/",
        "https://cdn_test/x",
        "https://[::1/x",
        "https://cdn.test/a b",
        "https://cdn.test/ä",
        "https://cdn.test/\r\nHost: other",
        "https://cdn.test/\0",
        "https://cdn%2etest/",
    ],
)
def test_other_urls_are_not_followed(text: str) -> None:
    with pytest.raises(ValueError):
        parse_url(text)


async def test_a_host_is_looked_up_and_an_address_is_not() -> None:
    asked = []

    async def lookup(host: str) -> tuple[str, ...]:
        asked.append(host)
        return ("192.0.2.1", "192.0.2.2")

    endpoint = await parse_url("https://cdn.test:8443/x").find(lookup)
    assert endpoint.addresses == ("192.0.2.1", "192.0.2.2")
    assert (endpoint.port, endpoint.host_header) == (8443, "cdn.test:8443")
    assert (endpoint.tls_name, endpoint.may_be_private) == ("cdn.test", False)
    literal = await parse_url("https://[2001:db8::1]/x").find(lookup)
    assert (literal.addresses, literal.tls_name) == (("2001:db8::1",), "2001:db8::1")
    assert asked == ["cdn.test"]
