"""A real Synapse beside a real Freehold: two processes that federate over verified TLS.

1. Both trust one certificate authority, made for the occasion, and nothing else of loopback. Their
   names are `localhost:PORT`, which Synapse resolves by itself and ours by an address override.
2. Synapse runs from `.venv-synapse`, which is made on first use, on SQLite, with its rate limits
   off and short waits between its attempts at a server that was away. Ours has a shorter wait, too.
3. All of a pair is in one folder; the logs are `synapse/freehold.log` and `freehold/freehold.log`
   there, since both are started as the lab starts a server.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
import yaml

from lab.certificates import client_context, ensure_authority, write_private
from lab.processes import Child, start_child, stop_child, tail
from lab.running import answers
from lab.server_files import ensure_signing_key, write_configuration
from lab.topology import LOOPBACK, Ports, ServerPlan, Topology, free_ports

ROOT = Path(__file__).resolve().parents[3]
SYNAPSE_PYTHON = ROOT / ".venv-synapse" / "bin" / "python"
READY_S = 240.0  # a start takes Synapse about seven seconds of one core's time
READY_POLL_S = 0.1

Side = Literal["freehold", "synapse"]
SIDES: tuple[Side, Side] = ("freehold", "synapse")

_LAUNCHER = """
import sys
import federation.limits
federation.limits.BACKOFF_S_MAX = 2.0
from homeserver.cli import main
main(prog_name="freehold")
"""


class SynapseUnavailable(Exception):
    """The registry can't be reached, or has no Synapse for this Python."""


class SynapseFailed(Exception):
    """Synapse can't be set up or started, for a reason that isn't the registry's."""


def ensure_synapse() -> str:
    """Make `.venv-synapse` where it is missing or old; return Synapse's version.

    Refuses with SynapseUnavailable and SynapseFailed.
    """
    command = [sys.executable, str(ROOT / ".ci" / "environment"), "synapse"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == os.EX_UNAVAILABLE:
        raise SynapseUnavailable(done.stderr)
    if done.returncode != 0:
        raise SynapseFailed(done.stderr)
    code = "import importlib.metadata as found; print(found.version('matrix-synapse'))"
    asked = subprocess.run([SYNAPSE_PYTHON, "-c", code], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


def homeserver_yaml(
    server: ServerPlan, authority_path: Path, *, has_presence: bool
) -> dict[str, Any]:
    """Return Synapse's configuration."""
    resources = [{"names": ["client", "federation"]}]
    plentiful = {"per_second": 10_000, "burst_count": 10_000}
    return {
        "server_name": server.name,
        "public_baseurl": f"{server.http_url}/",
        "pid_file": str(server.folder / "synapse.pid"),
        "listeners": [
            {
                "port": port,
                "type": "http",
                "tls": port == server.ports.tls,
                "bind_addresses": [LOOPBACK],
                "resources": resources,
            }
            for port in (server.ports.tls, server.ports.http)
        ],
        "tls_certificate_path": str(server.certificate_path),
        "tls_private_key_path": str(server.private_key_path),
        "federation_custom_ca_list": [str(authority_path)],
        "federation_verify_certificates": True,
        "ip_range_blacklist": [],
        "trusted_key_servers": [],
        "suppress_key_server_warning": True,
        "signing_key_path": str(server.signing_key_path),
        "database": {"name": "sqlite3", "args": {"database": str(server.folder / "synapse.db")}},
        "media_store_path": str(server.folder / "media"),
        "macaroon_secret_key": "not a secret",
        "form_secret": "not a secret either",
        "report_stats": False,
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "bcrypt_rounds": 4,
        "allow_public_rooms_over_federation": True,
        "room_list_publication_rules": [{"action": "allow"}],
        "presence": {"enabled": has_presence},
        "federation": {
            "max_short_retry_delay": "1s",
            "max_long_retry_delay": "1s",
            "destination_min_retry_interval": "1s",
            "destination_retry_multiplier": 1,
            "destination_max_retry_interval": "2s",
        },
        "rc_message": plentiful,
        "rc_presence": {"per_user": plentiful},
        "rc_registration": plentiful,
        "rc_login": {"address": plentiful, "account": plentiful, "failed_attempts": plentiful},
        "rc_joins": {"local": plentiful, "remote": plentiful},
        "rc_joins_per_room": plentiful,
        "rc_invites": {
            "per_room": plentiful,
            "per_user": plentiful,
            "per_issuer": plentiful,
        },
        "rc_federation": {"concurrent": 100, "sleep_limit": 10_000, "reject_limit": 10_000},
        "rc_key_requests": plentiful,
        "rc_room_creation": plentiful,
    }


def plan_pair(folder: Path) -> Topology:
    """Return the plan of a Freehold and a Synapse at free ports, with their folders made."""
    taken = {0}
    while len(taken) < 5:
        taken.add(next(free_ports(0, taken)))
    ports = sorted(taken - {0})
    servers = []
    for side, tls, http in zip(SIDES, ports[:2], ports[2:], strict=True):
        (folder / side).mkdir(mode=0o700)
        servers.append(ServerPlan(f"localhost:{tls}", Ports(tls, http), folder / side))
    return Topology(folder, tuple(servers))


@dataclass
class Pair:
    """The two servers: where they are, and how to stop and start one. `has_presence`: both tell
    each other who is online."""

    topology: Topology
    database_url: str
    synapse_version: str
    has_presence: bool = False
    children: dict[Side, Child] = field(default_factory=dict)

    def plan(self, side: Side) -> ServerPlan:
        """Return a server's name, ports and files."""
        return self.topology.servers[SIDES.index(side)]

    @property
    def authority_path(self) -> Path:
        """Return the certificate authority's file."""
        return self.topology.authority_folder / "ca.crt"

    def prepare(self) -> None:
        """Write both servers' certificates, keys and configurations."""
        authority = ensure_authority(self.topology.authority_folder)
        for server in self.topology.servers:
            made = authority.issue_cert("localhost", LOOPBACK)
            write_private(server.private_key_path, made.private_key_pem.bytes())
            chain = b"".join(pem.bytes() for pem in made.cert_chain_pems)
            server.certificate_path.write_bytes(chain)
            ensure_signing_key(server)
        write_configuration(
            self.plan("freehold"),
            self.topology,
            database_url=self.database_url,
            authority_path=self.authority_path,
        )
        if self.has_presence:
            with self.plan("freehold").config_path.open("a") as config:
                config.write('\n[presence]\nmode = "on"\n')
        settings = homeserver_yaml(
            self.plan("synapse"), self.authority_path, has_presence=self.has_presence
        )
        self._synapse_settings_path.write_text(yaml.safe_dump(settings))

    async def start(self, side: Side) -> None:
        """Start a server; return when it answers clients. Refuses with SynapseFailed."""
        server = self.plan(side)
        child = start_child(side, self._command(side), server.log_path)
        self.children[side] = child
        deadline = time.monotonic() + READY_S
        async with aiohttp.ClientSession() as session:
            while not await answers(session, server):
                if child.has_ended or time.monotonic() > deadline:
                    raise SynapseFailed(f"{side} does not start:\n{tail(server.log_path, 40)}")
                await asyncio.sleep(READY_POLL_S)

    async def stop(self, side: Side) -> None:
        """Ask a server to end, and wait for it."""
        await stop_child(self.children.pop(side))

    async def start_missing(self) -> None:
        """Start what doesn't run."""
        for side in SIDES:
            if side not in self.children or self.children[side].has_ended:
                await self.start(side)

    async def stop_all(self) -> None:
        """End both."""
        await asyncio.gather(*(self.stop(side) for side in tuple(self.children)))

    def connector(self) -> aiohttp.TCPConnector:
        """Return connections that trust the pair's authority and no other."""
        return aiohttp.TCPConnector(limit=0, ssl=client_context(self.authority_path))

    @property
    def _synapse_settings_path(self) -> Path:
        return self.plan("synapse").folder / "homeserver.yaml"

    def _command(self, side: Side) -> list[str]:
        if side == "freehold":
            config = str(self.plan(side).config_path)
            return [sys.executable, "-c", _LAUNCHER, "serve", "--config", config]
        module = ["-m", "synapse.app.homeserver"]
        return [str(SYNAPSE_PYTHON), *module, "--config-path", str(self._synapse_settings_path)]


def log_sizes(pair: Pair) -> dict[Side, int]:
    """Return how long each server's log is by now."""
    return {side: pair.plan(side).log_path.stat().st_size for side in SIDES}


def logged_since(pair: Pair, sizes: dict[Side, int], side: Side, lines: int = 60) -> str:
    """Return the last lines of a server's log after a place in it."""
    with pair.plan(side).log_path.open("rb") as log:
        log.seek(sizes[side])
        text = log.read().decode(errors="replace")
    return "\n".join(line[:400] for line in text.splitlines()[-lines:])
