"""The plan of a lab: which servers, which ports, which files. Kept across restarts.

Rules:
1. Everything of a lab is below its data folder; a server's things are below `servers/<name>/`.
2. Ports are on 127.0.0.1, once chosen they stay, unless something else has taken one meanwhile.
3. The plan is values only; what it says is made by `certificates`, `server_files` and `servers`.
"""

import os
import re
import secrets
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

LOOPBACK = "127.0.0.1"
SERVERS_MAX = 50
FIRST_HTTP_PORT = 8101
FIRST_TLS_PORT = 8441


class Ports(msgspec.Struct, frozen=True):
    """A server's two ports: TLS for everybody and plain HTTP for clients without the lab's CA."""

    tls: int
    http: int


class SavedPlan(msgspec.Struct, frozen=True):
    """The contents of `lab.json`: the lab's random ID, and the ports by server name."""

    lab_id: str = ""
    ports: dict[str, Ports] = {}


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """One server of the lab: its name, ports, folder, and the ID of its lab."""

    name: str
    ports: Ports
    folder: Path
    lab_id: str = ""

    @property
    def config_path(self) -> Path:
        """Returns the server's configuration file."""
        return self.folder / "freehold.toml"

    @property
    def log_path(self) -> Path:
        """Returns the file that gets all that the server's process says."""
        return self.folder / "freehold.log"

    @property
    def signing_key_path(self) -> Path:
        """Returns the server's signing key."""
        return self.folder / "signing.key"

    @property
    def certificate_path(self) -> Path:
        """Returns the server's TLS certificate (with its chain)."""
        return self.folder / "tls.crt"

    @property
    def private_key_path(self) -> Path:
        """Returns the key of the TLS certificate."""
        return self.folder / "tls.key"

    @property
    def database_name(self) -> str:
        """Returns the name of the server's database and role; two labs never share one."""
        return "_".join(re.findall("[a-z0-9]+", f"freehold {self.lab_id} {self.name}"))

    @property
    def tls_url(self) -> str:
        """Returns the base URL with TLS, by the lab's CA."""
        return f"https://{LOOPBACK}:{self.ports.tls}"

    @property
    def http_url(self) -> str:
        """Returns the base URL of plain HTTP on loopback."""
        return f"http://{LOOPBACK}:{self.ports.http}"


@dataclass(frozen=True, slots=True)
class Topology:
    """A lab: its folder and its servers in order."""

    home: Path
    servers: tuple[ServerPlan, ...]

    @property
    def authority_folder(self) -> Path:
        """Returns the folder of the lab's certificate authority."""
        return self.home / "ca"

    def server(self, name: str) -> ServerPlan:
        """Returns the server of a name. Precondition: there is one."""
        return next(server for server in self.servers if server.name == name)

    def overrides(self) -> dict[str, str]:
        """Returns where each server name leads: what stands for DNS, .well-known and SRV."""
        return {server.name: f"{LOOPBACK}:{server.ports.tls}" for server in self.servers}


def server_names(count: int) -> list[str]:
    """Returns the names `hs1` to `hsN`."""
    assert 1 <= count <= SERVERS_MAX, f"a lab has 1 to {SERVERS_MAX} servers"
    return [f"hs{number}" for number in range(1, count + 1)]


def plan(home: Path, names: Sequence[str]) -> Topology:
    """Returns the topology for a data folder: kept ports where they are free, else new ones.

    Makes the folders (0700 but for the top, which the database's account must pass) and saves the
    plan. Raises OSError when the folder can't be written.
    """
    make_home(home)
    for name in names:
        server_folder(home, name).mkdir(parents=True, exist_ok=True, mode=0o700)
    saved = load(home)
    taken = {port for ports in saved.ports.values() for port in (ports.tls, ports.http)}
    chosen: dict[str, Ports] = dict(saved.ports)
    for index, name in enumerate(names):
        kept = saved.ports.get(name)
        if kept is not None and is_free(kept.tls) and is_free(kept.http):
            continue
        tls = next(free_ports(FIRST_TLS_PORT + index, taken))
        taken.add(tls)
        http = next(free_ports(FIRST_HTTP_PORT + index, taken))
        taken.add(http)
        chosen[name] = Ports(tls, http)
    lab_id = saved.lab_id or secrets.token_hex(3)
    save(home, SavedPlan(lab_id, chosen))
    servers = [ServerPlan(name, chosen[name], server_folder(home, name), lab_id) for name in names]
    return Topology(home, tuple(servers))


def make_home(home: Path) -> None:
    """Makes a lab's folder if it is missing; an existing one keeps its mode."""
    if home.exists():
        return
    home.mkdir(parents=True, mode=0o700)
    if os.geteuid() == 0:
        home.chmod(0o711)  # the database runs under another account, which must pass


def server_folder(home: Path, name: str) -> Path:
    """Returns the folder of a server."""
    return home / "servers" / name


def load(home: Path) -> SavedPlan:
    """Returns the kept plan, or an empty one for a new folder or a damaged file."""
    try:
        return msgspec.json.decode((home / "lab.json").read_bytes(), type=SavedPlan)
    except (FileNotFoundError, msgspec.DecodeError):
        return SavedPlan()


def save(home: Path, saved: SavedPlan) -> None:
    """Keeps a plan, whole or not at all."""
    work = home / "lab.json.new"
    work.write_bytes(msgspec.json.format(msgspec.json.encode(saved)) + b"\n")
    work.replace(home / "lab.json")


def free_ports(preferred: int, taken: set[int]) -> Iterator[int]:
    """Yields ports that are free: the preferred one first, then what the system gives."""
    if preferred not in taken and is_free(preferred):
        yield preferred
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            yield port


def is_free(port: int) -> bool:
    """Returns whether nothing listens on a port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
