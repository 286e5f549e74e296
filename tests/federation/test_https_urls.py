"""Web addresses that others name."""

import pytest

from federation.https_urls import HttpsUrl, parse_https_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://cdn.test/a/b?c=d", HttpsUrl("cdn.test", 443, "/a/b?c=d")),
        ("https://CDN.test:8443", HttpsUrl("cdn.test", 8443, "/")),
        ("https://[2001:db8::1]/x#y", HttpsUrl("2001:db8::1", 443, "/x")),
        ("https://10.0.0.1?x", HttpsUrl("10.0.0.1", 443, "/?x")),
    ],
)
def test_a_url_has_a_host_and_a_target(text: str, url: HttpsUrl) -> None:
    assert parse_https_url(text) == url


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
        parse_https_url(text)


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("https://CDN.test:443/x", "cdn.test"),
        ("https://cdn.test:8443", "cdn.test:8443"),
        ("https://[2001:db8::1]:444/x", "[2001:db8::1]:444"),
    ],
)
def test_one_place_has_one_name(text: str, authority: str) -> None:
    assert parse_https_url(text).authority == authority
