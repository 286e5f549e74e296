"""Where the hosts of web addresses are."""

from federation.https_urls import HttpsUrl
from federation.transport.requests.urls import find_endpoint


async def test_a_host_is_looked_up_and_an_address_is_not() -> None:
    asked = []

    async def lookup(host: str) -> tuple[str, ...]:
        asked.append(host)
        return ("192.0.2.1", "192.0.2.2")

    endpoint = await find_endpoint(HttpsUrl("cdn.test", 8443, "/x"), lookup)
    assert endpoint.addresses == ("192.0.2.1", "192.0.2.2")
    assert (endpoint.port, endpoint.host_header) == (8443, "cdn.test:8443")
    assert (endpoint.tls_name, endpoint.may_be_private) == ("cdn.test", False)
    literal = await find_endpoint(HttpsUrl("2001:db8::1", 443, "/x"), lookup)
    assert (literal.addresses, literal.tls_name) == (("2001:db8::1",), "2001:db8::1")
    assert asked == ["cdn.test"]
