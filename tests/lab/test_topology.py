"""The lab's plan: ports that stay, folders, names."""

import socket
from pathlib import Path

import pytest

from lab.topology import LOOPBACK, free_ports, is_free, load, plan, server_names


def test_names_count_from_one() -> None:
    """`up 3` makes hs1, hs2 and hs3."""
    assert server_names(3) == ["hs1", "hs2", "hs3"]


@pytest.mark.parametrize("count", [0, 51])
def test_too_few_or_too_many_servers_are_refused(count: int) -> None:
    """The number of servers is bounded."""
    with pytest.raises(AssertionError):
        server_names(count)


def test_every_port_is_different_and_leads_to_its_name(tmp_path: Path) -> None:
    """The overrides stand for DNS: each name leads to its own TLS port."""
    topology = plan(tmp_path / "lab", server_names(4))
    ports = [port for server in topology.servers for port in (server.ports.tls, server.ports.http)]
    assert len(set(ports)) == 8
    expected = {server.name: f"127.0.0.1:{server.ports.tls}" for server in topology.servers}
    assert topology.overrides() == expected


def test_ports_stay_across_restarts(tmp_path: Path) -> None:
    """A second plan of the same folder has the same ports, also for more servers."""
    first = plan(tmp_path, server_names(2))
    second = plan(tmp_path, server_names(3))
    assert second.servers[:2] == first.servers
    assert first.server("hs2") == second.server("hs2")


def test_a_port_taken_by_somebody_else_is_replaced(tmp_path: Path) -> None:
    """Only the server concerned gets new ports."""
    first = plan(tmp_path, server_names(2))
    with socket.socket() as other:
        other.bind((LOOPBACK, first.server("hs1").ports.tls))
        other.listen()
        second = plan(tmp_path, server_names(2))
    assert second.server("hs1").ports.tls != first.server("hs1").ports.tls
    assert second.server("hs2") == first.server("hs2")


def test_a_damaged_plan_is_made_anew(tmp_path: Path) -> None:
    """Ports are no treasure."""
    (tmp_path / "lab.json").write_text("{")
    assert load(tmp_path).ports == {}
    assert plan(tmp_path, ["hs1"]).servers


def test_a_taken_port_is_not_free() -> None:
    """What listens is found."""
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        assert not is_free(other.getsockname()[1])


def test_ports_given_already_are_not_given_again() -> None:
    """The preferred port is passed over when it is in the plan."""
    preferred = next(free_ports(0, set()))
    assert next(free_ports(preferred, {preferred})) != preferred


def test_a_database_name_is_an_identifier_of_this_lab(tmp_path: Path) -> None:
    """Names with dots and dashes become plain ones; another lab's are different, the own stay."""
    server = plan(tmp_path / "one", ["a-b.example"]).servers[0]
    assert server.database_name == f"freehold_{server.lab_id}_a_b_example"
    assert plan(tmp_path / "one", ["a-b.example"]).servers[0] == server
    other = plan(tmp_path / "two", ["a-b.example"]).servers[0]
    assert other.database_name != server.database_name
