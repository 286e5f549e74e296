"""The lab's TLS is really verified: names, authority, private keys."""

import asyncio
import ssl
import stat
from pathlib import Path

import pytest

from lab.certificates import client_context, ensure_certificates, is_current, write_private
from lab.topology import LOOPBACK, ServerPlan, Topology, plan, server_names


@pytest.fixture
def topology(tmp_path: Path) -> Topology:
    """Returns the plan of two servers."""
    return plan(tmp_path, server_names(2))


async def greet(server: ServerPlan, authority_path: Path, name: str) -> None:
    """Connects to a server with its certificate, verifying a name by an authority."""
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    settings.load_cert_chain(server.certificate_path, server.private_key_path)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listener = await asyncio.start_server(answer, LOOPBACK, 0, ssl=settings)
    port = listener.sockets[0].getsockname()[1]
    context = client_context(authority_path)
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port, ssl=context, server_hostname=name)
        writer.close()
        await writer.wait_closed()
    finally:
        listener.close()
        await listener.wait_closed()


@pytest.mark.parametrize("name", ["hs1", "localhost", "127.0.0.1"])
async def test_a_server_proves_its_name(topology: Topology, name: str) -> None:
    """Other servers verify the Matrix name, clients of this machine its address."""
    authority_path = ensure_certificates(topology)
    await greet(topology.server("hs1"), authority_path, name)


async def test_a_server_cannot_prove_another_name(topology: Topology) -> None:
    """hs1 can't pass for hs2."""
    authority_path = ensure_certificates(topology)
    with pytest.raises(ssl.SSLCertVerificationError):
        await greet(topology.server("hs1"), authority_path, "hs2")


async def test_another_authority_is_not_trusted(topology: Topology, tmp_path: Path) -> None:
    """A certificate of another lab is refused."""
    ensure_certificates(topology)
    other = ensure_certificates(plan(tmp_path / "other", server_names(1)))
    with pytest.raises(ssl.SSLCertVerificationError):
        await greet(topology.server("hs1"), other, "hs1")


def test_keys_are_private(topology: Topology) -> None:
    """Authority's and servers' keys are 0600."""
    ensure_certificates(topology)
    keys = [topology.authority_folder / "ca.key"]
    keys += [server.private_key_path for server in topology.servers]
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_what_is_there_is_kept(topology: Topology) -> None:
    """A second start changes nothing."""
    ensure_certificates(topology)
    before = topology.server("hs1").certificate_path.read_bytes()
    ensure_certificates(topology)
    assert topology.server("hs1").certificate_path.read_bytes() == before


@pytest.mark.parametrize("loss", ["authority", "certificate", "key", "garbage"])
def test_what_is_lost_or_does_not_fit_is_made_anew(topology: Topology, loss: str) -> None:
    """A new authority makes new certificates; a damaged one is replaced."""
    authority_path = ensure_certificates(topology)
    server = topology.server("hs1")
    match loss:
        case "authority":
            authority_path.unlink()
        case "certificate":
            server.certificate_path.unlink()
        case "key":
            server.private_key_path.unlink()
        case _:
            server.certificate_path.write_text("nonsense")
    ensure_certificates(topology)
    assert is_current(server, authority_path)


def test_a_private_file_is_private_even_if_it_was_not(tmp_path: Path) -> None:
    """Rewriting closes a file that was open."""
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"new"
