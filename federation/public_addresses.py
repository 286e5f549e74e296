"""Addresses of the public internet: the only ones that a server may be sent to by others.

What another server, a web page or a user names is looked up, and connected to only if the address
itself is public. So nobody makes this server talk to its own network.
"""

from __future__ import annotations

import ipaddress
from typing import Final

# IANA's registries of special-purpose addresses, as of 2026; newer entries lie within these.
_IPV4_SPECIAL: Final = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # between a provider and its customers
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local, and metadata of clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
_IPV6_GLOBAL: Final = ipaddress.IPv6Network("2000::/3")  # all that is given out as global unicast
_IPV6_SPECIAL: Final = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "3fff::/20",  # documentation
        ),
    )
)
_IPV6_WRAPPING: Final = (
    ipaddress.IPv6Network("::ffff:0:0/96"),  # IPv4-mapped: the system connects by IPv4
    ipaddress.IPv6Network("64:ff9b::/96"),  # NAT64: what DNS64 makes of an IPv4 address
)


def unwrap_address(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Returns an address; of an IPv6 address that the system or the network translates to IPv4,
    that one."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and any(ip in network for network in _IPV6_WRAPPING):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


def is_public_address(address: str) -> bool:
    """Returns whether we may connect there: only to global unicast addresses, and to those that
    wrap a global IPv4 address in a form that a network translates. All others are
    refused: private, loopback, link-local, multicast and reserved ones, and tunnels."""
    ip = unwrap_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return ip in _IPV6_GLOBAL and not any(ip in network for network in _IPV6_SPECIAL)
    return not any(ip in network for network in _IPV4_SPECIAL)
