"""The lab's certificate authority and the servers' certificates: TLS that is really verified.

Rules:
1. The authority is made on first use and kept; its key is 0600 and never leaves the data folder.
2. A server's certificate has its Matrix name (what other servers verify), `localhost` and 127.0.0.1
   (what a client on this machine calls it).
3. A certificate whose authority was replaced, or which lacks a name, is made anew.
"""

import os
import ssl
from pathlib import Path

import trustme
from cryptography import x509

from lab.topology import LOOPBACK, ServerPlan, Topology


def ensure_certificates(topology: Topology) -> Path:
    """Makes authority and certificates where they are missing; returns the authority's file."""
    authority_path = topology.authority_folder / "ca.crt"
    authority = ensure_authority(topology.authority_folder)
    for server in topology.servers:
        if not is_current(server, authority_path):
            issue(server, authority)
    return authority_path


def ensure_authority(folder: Path) -> trustme.CA:
    """Returns the lab's authority, made and kept on first use."""
    folder.mkdir(exist_ok=True, mode=0o700)
    certificate_path, key_path = folder / "ca.crt", folder / "ca.key"
    if certificate_path.exists() and key_path.exists():
        return trustme.CA.from_pem(certificate_path.read_bytes(), key_path.read_bytes())
    authority = trustme.CA(organization_name="Freehold lab")
    write_private(key_path, authority.private_key_pem.bytes())
    certificate_path.write_bytes(authority.cert_pem.bytes())
    return authority


def issue(server: ServerPlan, authority: trustme.CA) -> None:
    """Makes a server's certificate and key."""
    made = authority.issue_cert(server.name, "localhost", LOOPBACK)
    write_private(server.private_key_path, made.private_key_pem.bytes())
    server.certificate_path.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))


def is_current(server: ServerPlan, authority_path: Path) -> bool:
    """Returns whether a server has a certificate of this authority with its names (rule 3)."""
    try:
        certificate = x509.load_pem_x509_certificate(server.certificate_path.read_bytes())
        authority = x509.load_pem_x509_certificate(authority_path.read_bytes())
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception as problem:  # noqa: BLE001 - whatever is wrong with it, it is made anew
        del problem
        return False
    return server.private_key_path.exists() and server.name in names.get_values_for_type(
        x509.DNSName
    )


def client_context(authority_path: Path) -> ssl.SSLContext:
    """Returns the TLS settings of a client that trusts the lab's authority and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=authority_path)
    return context


def write_private(path: Path, content: bytes) -> None:
    """Writes a file that only its owner can read, from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)
