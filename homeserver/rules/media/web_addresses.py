"""Which web servers may be asked for what users name.

Rules:
1. Only http and https, without a user name, at ports of the configuration.
2. Host names of the configuration are refused, with all names below them; if it has a list of
   permitted ones, all others are.
3. An address is looked at when the connection to it is made: of the public internet, or in a
   network that the configuration permits; never in one that it refuses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import yarl

from federation.public_addresses import is_public_address, unwrap_address
from homeserver import limits

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class InvalidWebAddress(ValueError):
    """A URL that isn't fetched; the text says why."""


@dataclass(frozen=True, slots=True)
class WebPolicy:
    """The configuration's lists. Empty `allowed_hosts`: all hosts. `denied_networks` are stronger
    than `allowed_networks`, which permit what isn't public."""

    ports: frozenset[int] = frozenset({80, 443})
    allowed_hosts: tuple[str, ...] = ()
    denied_hosts: tuple[str, ...] = ()
    allowed_networks: tuple[Network, ...] = ()
    denied_networks: tuple[Network, ...] = ()

    def permits_address(self, address: str) -> bool:
        """Returns whether a connection to an address may be made."""
        forms = (ipaddress.ip_address(address), unwrap_address(address))
        if any(ip in network for network in self.denied_networks for ip in forms):
            return False
        is_allowed = any(ip in network for network in self.allowed_networks for ip in forms)
        return is_allowed or is_public_address(address)

    def permits_host(self, host: str) -> bool:
        """Returns whether the lists of hosts permit a host name."""
        if _is_below(host, self.denied_hosts):
            return False
        return not self.allowed_hosts or _is_below(host, self.allowed_hosts)


def parse_web_address(text: str, policy: WebPolicy) -> yarl.URL:
    """Returns the URL without its fragment. Raises InvalidWebAddress."""
    if len(text) > limits.PREVIEW_URL_CHARACTERS:
        raise InvalidWebAddress("The URL is too long")
    try:
        url = yarl.URL(text.strip()).with_fragment(None)
        host, port, _ = url.raw_host, url.port, url.host  # the last one: IDNA can read it
    except (ValueError, UnicodeError, TypeError) as error:
        raise InvalidWebAddress("The URL is invalid") from error
    if url.scheme not in ("http", "https") or not host:
        raise InvalidWebAddress("The URL isn't one of http or https")
    if url.raw_user is not None or url.raw_password is not None:
        raise InvalidWebAddress("The URL has a user name")
    if port not in policy.ports:
        raise InvalidWebAddress("The URL has a port that isn't permitted")
    if "%" in host:
        raise InvalidWebAddress("The URL has an address with a zone")
    if not policy.permits_host(host):
        raise InvalidWebAddress("The URL's host isn't permitted")
    return url.with_path("/") if url == url.origin() else url


def join_web_address(base: yarl.URL, text: str, policy: WebPolicy) -> yarl.URL:
    """Returns the URL that `text` means in a document at `base`. Raises InvalidWebAddress."""
    if len(text) > limits.PREVIEW_URL_CHARACTERS:
        raise InvalidWebAddress("The URL is too long")
    try:
        joined = base.join(yarl.URL(text.strip()))
    except (ValueError, UnicodeError, TypeError) as error:
        raise InvalidWebAddress("The URL is invalid") from error
    return parse_web_address(str(joined), policy)


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Returns networks and single addresses of a list. Raises ValueError."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def _is_below(host: str, names: Sequence[str]) -> bool:
    """Returns whether a host is one of these names, or below one."""
    lowered = host.lower().rstrip(".")
    return any(lowered == name or lowered.endswith("." + name) for name in names)
