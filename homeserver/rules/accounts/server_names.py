"""Checks the name of a new server. It can't be changed later, and others must be able to reach it.

Rules:
1. The check is stricter than the grammar for other servers' names: names are compared as written,
   capitals included, and a host that DNS can't represent is never found.
2. Each problem is a sentence for the operator.

Spec: appendices, "Server name"; RFC 1123, section 2.1.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from federation.events.ids import InvalidIdentifier, parse_server_name
from homeserver import limits

_PARTS = re.compile(r"(\[.*\]|[^:]*)(?::(\d+))?")


def name_problem(name: str) -> str | None:
    """Returns the problem with a server name; None for a good one."""
    try:
        parse_server_name(name)
    except InvalidIdentifier as error:
        return f"it is {error}"
    if name != name.lower():
        return f"names are told apart by capitals: write it in lower case, {name.lower()}"
    if len(name) > limits.SERVER_NAME_CHARACTERS:
        return f"it has more than {limits.SERVER_NAME_CHARACTERS} characters"
    match = _PARTS.fullmatch(name)
    assert match is not None, "the grammar has a host and perhaps a port"
    host, port = match.groups()
    if port is not None and not 0 < int(port) < 65536:
        return f"{port} isn't a port"
    return _host_problem(host)


def _host_problem(host: str) -> str | None:
    if host.startswith("["):
        return _address_problem(host[1:-1], IPv6Address)
    labels = host.split(".")
    if labels[-1].isdigit():
        return _address_problem(host, IPv4Address)
    for label in labels:
        if not label:
            return "it has an empty part: one dot too many"
        if len(label) > (most := limits.HOST_LABEL_CHARACTERS):
            return f'"{label}" is longer than the {most} characters of a DNS label'
        if label.startswith("-") or label.endswith("-"):
            return f'"{label}" begins or ends with a hyphen'
    return None


def _address_problem(text: str, kind: type[IPv4Address] | type[IPv6Address]) -> str | None:
    try:
        kind(text)
    except AddressValueError:
        return f"{text} isn't an IP address"
    return None
