"""Resolving server names, step by step as the specification orders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dns.resolver
import pytest

from federation.events.ids import ServerName
from federation.limits import ADDRESS_CACHE_S, SRV_CACHE_S_MAX, SRV_CACHE_S_MIN, SRV_RECORDS_MAX
from federation.transport.requests.dialer import Endpoint
from federation.transport.requests.resolve import (
    ResolutionFailed,
    ServerResolver,
    SrvRecord,
    SystemNames,
)
from tests.federation.transport.memory_ports import JumpingClock


class Names:
    """DNS of a test."""

    def __init__(self) -> None:
        self.hosts: dict[str, tuple[str, ...]] = {}
        self.records: dict[str, list[SrvRecord]] = {}
        self.srv_is_down = False

    async def addresses(self, host: str) -> tuple[str, ...]:
        if host not in self.hosts:
            raise OSError(f"no such host: {host}")
        return self.hosts[host]

    async def srv(self, name: str) -> Sequence[SrvRecord]:
        if self.srv_is_down:
            raise OSError("no answer")
        return self.records.get(name, [])


class Delegations:
    """`.well-known` of a test."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.asked: list[str] = []

    async def delegated(self, host: str) -> ServerName | None:
        self.asked.append(host)
        name = self.names.get(host)
        return None if name is None else ServerName(name)


@pytest.fixture
def names() -> Names:
    found = Names()
    found.hosts = {"a.test": ("192.0.2.1",), "d.test": ("192.0.2.2",), "s.test": ("192.0.2.3",)}
    return found


@pytest.fixture
def delegations() -> Delegations:
    return Delegations()


async def resolve(names: Names, delegations: Delegations, server: str) -> Endpoint:
    resolver = ServerResolver(
        names, delegations, {"over.test": "127.0.0.1:9", "host.test": "d.test"}
    )
    return await resolver.resolve(ServerName(server))


@pytest.mark.parametrize(
    ("server", "endpoint"),
    [
        ("1.2.3.4", Endpoint(("1.2.3.4",), 8448, "1.2.3.4", "1.2.3.4")),
        ("1.2.3.4:99", Endpoint(("1.2.3.4",), 99, "1.2.3.4:99", "1.2.3.4")),
        ("[2001:db8::1]:99", Endpoint(("2001:db8::1",), 99, "[2001:db8::1]:99", "2001:db8::1")),
        ("a.test:99", Endpoint(("192.0.2.1",), 99, "a.test:99", "a.test")),
    ],
)
async def test_literals_and_explicit_ports_need_no_well_known(
    names: Names, delegations: Delegations, server: str, endpoint: Endpoint
) -> None:
    assert await resolve(names, delegations, server) == endpoint
    assert not delegations.asked


async def test_without_anything_else_it_is_port_8448(
    names: Names, delegations: Delegations
) -> None:
    found = await resolve(names, delegations, "a.test")
    assert found == Endpoint(("192.0.2.1",), 8448, "a.test", "a.test")
    assert delegations.asked == ["a.test"]


@pytest.mark.parametrize(
    ("delegated", "endpoint"),
    [
        ("1.2.3.4", Endpoint(("1.2.3.4",), 8448, "1.2.3.4", "1.2.3.4")),
        ("d.test:77", Endpoint(("192.0.2.2",), 77, "d.test:77", "d.test")),
        ("d.test", Endpoint(("192.0.2.2",), 8448, "d.test", "d.test")),
    ],
)
async def test_a_delegated_name_gives_host_header_and_certificate(
    names: Names, delegations: Delegations, delegated: str, endpoint: Endpoint
) -> None:
    delegations.names = {"a.test": delegated, "d.test": "loop.test"}
    assert await resolve(names, delegations, "a.test") == endpoint
    assert delegations.asked == ["a.test"], "a delegated name isn't looked up in well-known again"


@pytest.mark.parametrize("service", ["_matrix-fed", "_matrix"])
async def test_srv_changes_address_and_port_alone(
    names: Names, delegations: Delegations, service: str
) -> None:
    names.records[f"{service}._tcp.a.test"] = [
        SrvRecord("gone.test", 1, 0, 0, 60.0),
        SrvRecord("s.test", 4433, 10, 0, 60.0),
    ]
    found = await resolve(names, delegations, "a.test")
    assert found == Endpoint(("192.0.2.3",), 4433, "a.test", "a.test")


async def test_the_registered_service_comes_before_the_deprecated_one(
    names: Names, delegations: Delegations
) -> None:
    names.records["_matrix-fed._tcp.a.test"] = [SrvRecord("s.test", 1, 0, 0, 60.0)]
    names.records["_matrix._tcp.a.test"] = [SrvRecord("s.test", 2, 0, 0, 60.0)]
    assert (await resolve(names, delegations, "a.test")).port == 1


async def test_broken_srv_does_not_hide_a_plain_host(
    names: Names, delegations: Delegations
) -> None:
    names.srv_is_down = True
    assert (await resolve(names, delegations, "a.test")).port == 8448


async def test_an_override_comes_first_and_permits_private_addresses_for_its_name_alone(
    names: Names, delegations: Delegations
) -> None:
    names.records["_matrix-fed._tcp.over.test"] = [SrvRecord("s.test", 1, 0, 0, 60.0)]
    found = await resolve(names, delegations, "over.test")
    assert found == Endpoint(("127.0.0.1",), 9, "over.test", "over.test", may_be_private=True)
    found = await resolve(names, delegations, "host.test:55")
    assert found == Endpoint(("192.0.2.2",), 55, "host.test:55", "host.test", may_be_private=True)
    assert not (await resolve(names, delegations, "a.test")).may_be_private
    assert delegations.asked == ["a.test"]


async def test_a_name_that_leads_nowhere_fails(names: Names, delegations: Delegations) -> None:
    with pytest.raises(ResolutionFailed):
        await resolve(names, delegations, "nowhere.test")


async def test_addresses_of_the_system_are_kept_for_a_while() -> None:
    names = SystemNames(JumpingClock())
    first = await names.addresses("localhost")
    assert {"127.0.0.1", "::1"} & set(first)
    assert await names.addresses("localhost") is first


@pytest.mark.parametrize("name", ["..", "a..b", "b" * 64, f"a.{'b' * 64}.c", "a.", "d.test:0"])
async def test_a_name_that_no_host_can_have_leads_nowhere(
    names: Names, delegations: Delegations, name: str
) -> None:
    with pytest.raises(ResolutionFailed):
        await resolve(names, delegations, name)
    assert not delegations.asked, "nobody is asked for it"


@pytest.mark.parametrize("step", ["addresses", "srv", "delegated"])
async def test_a_name_that_idna_refuses_leads_nowhere(
    names: Names, delegations: Delegations, step: str
) -> None:
    """Names from SRV records and delegations, too, are for the system's resolver to refuse."""

    async def refuse(name: str) -> tuple[str, ...]:
        raise UnicodeError("label empty or too long")

    target = delegations if step == "delegated" else names
    setattr(target, step, refuse)
    if step == "srv":  # then the host's own addresses are looked up
        assert (await resolve(names, delegations, "a.test")).addresses == ("192.0.2.1",)
        return
    with pytest.raises(ResolutionFailed):
        await resolve(names, delegations, "a.test")


async def test_the_systems_resolver_refuses_odd_names_without_a_bug() -> None:
    class Plain(Names):
        """DNS without SRV records; addresses are the system's."""

        addresses = SystemNames(JumpingClock()).addresses

    with pytest.raises(ResolutionFailed):
        await ServerResolver(Plain(), Delegations(), {"a.test": "b..c"}).resolve(
            ServerName("a.test")
        )


@dataclass
class Records:
    """An answer of DNS: no record, and how long that holds."""

    ttl: int

    @property
    def rrset(self) -> Records:
        return self

    def __iter__(self) -> Iterator[object]:
        return iter(())


@pytest.mark.parametrize(
    ("ttl_s", "kept_s"),
    [
        (0, SRV_CACHE_S_MIN),
        (SRV_CACHE_S_MIN + 1, SRV_CACHE_S_MIN + 1),
        (SRV_CACHE_S_MAX - 1, SRV_CACHE_S_MAX - 1),
        (10 * SRV_CACHE_S_MAX, SRV_CACHE_S_MAX),
    ],
)
async def test_srv_records_are_kept_for_their_time_to_live_within_bounds(
    monkeypatch: pytest.MonkeyPatch, ttl_s: float, kept_s: float
) -> None:
    questions = 0

    async def answer(*_: object, **__: object) -> Records:
        nonlocal questions
        questions += 1
        return Records(int(ttl_s))

    monkeypatch.setattr("dns.asyncresolver.resolve", answer)
    clock = JumpingClock()
    names = SystemNames(clock)
    for later_s, expected in ((0, 1), (kept_s - 1, 1), (2, 2)):
        clock.jump(later_s)
        await names.srv("_matrix-fed._tcp.a.test")
        assert questions == expected


async def test_that_a_host_has_no_srv_records_is_remembered_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    questions = 0

    async def answer(*_: object, **__: object) -> Records:
        nonlocal questions
        questions += 1
        raise dns.resolver.NXDOMAIN

    monkeypatch.setattr("dns.asyncresolver.resolve", answer)
    clock = JumpingClock()
    names = SystemNames(clock)
    for later_s, expected in ((0, 1), (ADDRESS_CACHE_S - 1, 1), (2, 2)):
        clock.jump(later_s)
        assert not await names.srv("_matrix-fed._tcp.a.test")
        assert questions == expected


@dataclass
class Target:
    """A record of DNS."""

    target: str
    port: int = 443
    priority: int = 0
    weight: int = 0


class ManyRecords(Records):
    """An answer with one record more than are tried."""

    def __iter__(self) -> Iterator[object]:
        return iter([Target(f"{n}.test.", priority=n) for n in range(SRV_RECORDS_MAX + 1)])


async def test_so_many_srv_records_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the best priority."""

    async def answer(*_: object, **__: object) -> Records:
        return ManyRecords(60)

    monkeypatch.setattr("dns.asyncresolver.resolve", answer)
    found = await SystemNames(JumpingClock()).srv("_matrix-fed._tcp.a.test")
    assert [one.host for one in found] == [f"{n}.test" for n in range(SRV_RECORDS_MAX)]
