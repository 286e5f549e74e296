"""Names that a new server may have."""

import pytest

from homeserver import limits
from homeserver.rules.accounts.server_names import name_problem

LONG = ".".join(["a" * limits.HOST_LABEL_CHARACTERS] * 3)


@pytest.mark.parametrize(
    "name",
    [
        "example.org",
        "hs1",
        "a-b.example.org:8448",
        "1.2.3.4",
        "1.2.3.4:65535",
        "[::1]:8448",
        "[1234:5678::abcd]",
        "4chan.example",
        "xn--bcher-kva.example",
        f"{LONG}.{'b' * (limits.SERVER_NAME_CHARACTERS - len(LONG) - 1)}",
    ],
)
def test_a_name_that_others_reach(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "not a server name"),
        ("a_b", "not a server name"),
        ("a b", "not a server name"),
        ("Example.org", "lower case, example.org"),
        ("[ABCD::1]", "lower case"),
        (".example.org", "one dot too many"),
        ("example.org.", "one dot too many"),
        ("a..b", "one dot too many"),
        ("a" * (limits.HOST_LABEL_CHARACTERS + 1) + ".org", "63 characters"),
        ("-a.org", "hyphen"),
        ("a-.org", "hyphen"),
        ("example.org:0", "0 isn't a port"),
        ("example.org:65536", "65536 isn't a port"),
        ("1.2.3", "isn't an IP address"),
        ("example.1", "isn't an IP address"),
        ("1.2.3.4.5", "isn't an IP address"),
        ("300.1.1.1", "IPv4 address"),
        ("[1::2::3]", "isn't an IP address"),
        (f"{LONG}.{'b' * (limits.SERVER_NAME_CHARACTERS - len(LONG))}", "230 characters"),
    ],
)
def test_a_name_that_nobody_reaches(name: str, problem: str) -> None:
    found = name_problem(name)
    assert found is not None
    assert problem in found
