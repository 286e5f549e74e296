"""The X-Matrix header: what is signed, and what the parser takes."""

import pytest

from federation.events.ids import KeyId, ServerName
from federation.events.signing import SignatureInvalid, SigningKey, sign_json
from federation.limits import AUTHORIZATION_HEADER_BYTES_MAX
from federation.transport.requests.x_matrix import (
    BadAuthorization,
    SignedRequest,
    build_authorization,
    parse_authorization,
    verify_request,
)

KEY = SigningKey.generate(bytes(32), "k1")
A, B = ServerName("a.test"), ServerName("b.test:8448")


def test_the_signature_is_that_of_the_signed_json_object() -> None:
    request = SignedRequest("PUT", "/_matrix/x/%21a?b=c%2F", b'{"z":1}')
    whole = {
        "method": "PUT",
        "uri": "/_matrix/x/%21a?b=c%2F",
        "origin": A,
        "destination": B,
        "content": {"z": 1},
    }
    credentials = parse_authorization(
        build_authorization(request, origin=A, destination=B, key=KEY)
    )
    assert credentials.signature == sign_json(whole, A, KEY)["signatures"][A][KEY.key_id]
    assert (credentials.origin, credentials.destination) == (A, B)


def test_a_request_verifies_only_as_it_was_signed() -> None:
    request = SignedRequest("GET", "/path")
    credentials = parse_authorization(
        build_authorization(request, origin=A, destination=B, key=KEY)
    )
    verify_request(request, credentials, KEY.verify_key)
    for other in (
        SignedRequest("PUT", "/path"),
        SignedRequest("GET", "/path?"),
        SignedRequest("GET", "/path", b"{}"),
    ):
        with pytest.raises(SignatureInvalid):
            verify_request(other, credentials, KEY.verify_key)


@pytest.mark.parametrize(
    "header",
    [
        'X-Matrix origin="a.test",destination="b.test:8448",key="ed25519:k1",sig="AAA"',
        "X-Matrix origin=a.test,destination=b.test:8448,key=ed25519:k1,sig=AAA",
        'x-matrix   ORIGIN=a.test ,\t Destination="b.test:8448" , key="ed25519:k1", sig="AAA"',
        r'X-Matrix origin="a.\test",destination="b.test:8448",key="ed25519:k1",sig="A\AA",x="a\"b"',
        'X-Matrix sig="AAA",key="ed25519:k1",destination="b.test:8448",origin="a.test",',
    ],
)
def test_the_parser_is_tolerant_of_what_the_specification_allows(header: str) -> None:
    credentials = parse_authorization(header)
    assert credentials.origin == A
    assert credentials.destination == B
    assert credentials.key_id == KeyId("ed25519:k1")
    assert credentials.signature == "AAA"


def test_a_missing_destination_is_known_as_missing() -> None:
    assert parse_authorization("X-Matrix origin=a,key=ed25519:1,sig=A").destination is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer token",
        "X-Matrix",
        "X-Matrix origin=a.test,key=ed25519:k1",
        "X-Matrix origin=a.test,sig=AAA",
        "X-Matrix key=ed25519:k1,sig=AAA",
        "X-Matrix origin=a.test,origin=b.test,key=ed25519:k1,sig=AAA",
        "X-Matrix origin=a b,key=ed25519:k1,sig=AAA",
        'X-Matrix origin="a.test,key=ed25519:k1,sig=AAA',
        "X-Matrix origin=/etc,key=ed25519:k1,sig=AAA",
        "X-Matrix origin=a.test,key=rsa:k1,sig=AAA",
        "X-Matrix origin=a.test,key=ed25519:k1,sig=",
        "X-Matrix origin=a.test,key=ed25519:k1,sig=AAA,;;",
    ],
)
def test_a_malformed_header_is_refused(header: str) -> None:
    with pytest.raises(BadAuthorization):
        parse_authorization(header)


def test_the_length_of_a_header_is_bounded() -> None:
    start = "X-Matrix origin=a,key=ed25519:1,sig=A,x="
    most = start + "x" * (AUTHORIZATION_HEADER_BYTES_MAX - len(start))
    assert parse_authorization(most).origin == "a"
    with pytest.raises(BadAuthorization):
        parse_authorization(most + "x")


@pytest.mark.parametrize("origin", ["..", "a..b", "a" * 64, "a.", "a:0", "[:::]"])
def test_an_origin_that_no_server_can_have_is_refused(origin: str) -> None:
    with pytest.raises(BadAuthorization):
        parse_authorization(f'X-Matrix origin="{origin}",key="ed25519:k1",sig="AAA"')
