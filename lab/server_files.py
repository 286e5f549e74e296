"""A server's files: its configuration, written at each start, and its signing key, made once.

Rules:
1. The configuration defines ports and addresses and is written anew at each start; manual changes
   belong into a copy.
2. A signing key is 0600 and is never made anew while there is one: it is the server's identity.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path

from homeserver.signing_keys import create_signing_key
from lab.certificates import write_private
from lab.topology import LOOPBACK, ServerPlan, Topology

TomlValue = str | bool | int | tuple[str, ...]


def toml_value(value: TomlValue) -> str:
    """Returns a value as TOML. Precondition: texts have no control characters."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        case _:
            return f"[{', '.join(toml_value(item) for item in value)}]"


def toml_table(heading: str, values: Mapping[str, TomlValue]) -> str:
    """Returns a TOML table with its heading (`[a]` or `[[a]]`), or the top one without."""
    lines = [heading] if heading else []
    lines += [f"{key} = {toml_value(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def configuration(
    server: ServerPlan, topology: Topology, *, database_url: str, authority_path: Path
) -> str:
    """Returns the text of a server's configuration file."""
    overrides = {toml_value(name): at for name, at in topology.overrides().items()}
    parts = [
        toml_table(
            "",
            {
                "server_name": server.name,
                "public_baseurl": server.http_url,
                "data_dir": str(server.folder / "data"),
                "signing_key_path": str(server.signing_key_path),
                "default_room_version": "12",
            },
        ),
        toml_table("[database]", {"url": database_url}),
        toml_table(
            "[[listeners]]",
            {
                "address": f"{LOOPBACK}:{server.ports.tls}",
                "tls_cert_path": str(server.certificate_path),
                "tls_key_path": str(server.private_key_path),
            },
        ),
        toml_table("[[listeners]]", {"address": f"{LOOPBACK}:{server.ports.http}"}),
        toml_table("[registration]", {"enabled": True, "verification": "none"}),
        toml_table("[rate_limits]", {"enabled": False}),
        toml_table("[passwords]", {"iterations": 1, "memory_kib": 32}),
        toml_table("[federation]", {"ca_paths": (str(authority_path),)}),
        toml_table("[federation.address_overrides]", overrides),
        toml_table("[log]", {"level": "debug", "access": True}),
    ]
    return "# Written by the lab at each start: copy it before you change it.\n" + "\n".join(parts)


def write_configuration(
    server: ServerPlan, topology: Topology, *, database_url: str, authority_path: Path
) -> None:
    """Writes a server's configuration; it holds the database's password, so it is private."""
    text = configuration(server, topology, database_url=database_url, authority_path=authority_path)
    write_private(server.config_path, text.encode())
    (server.folder / "data").mkdir(exist_ok=True, mode=0o700)


def ensure_signing_key(server: ServerPlan) -> None:
    """Makes the server's signing key as `freehold init` does, if it has none."""
    if not server.signing_key_path.exists():
        create_signing_key(server.signing_key_path, secrets.token_bytes)
