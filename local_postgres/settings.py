"""The settings our PostgreSQL runs with, and what is dangerous to change.

They suit a small machine beside a homeserver. Given as program arguments at each start, so that an
update of ours reaches clusters of any age and `postgresql.conf` stays as `initdb` made it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from local_postgres.limits import SOCKET_PATH_BYTES_MAX

PORT = 5432  # names the socket file only: there is no TCP
MAJOR_WITH_IO_METHOD = 18

SETTINGS: Mapping[str, str] = {
    # doors
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    # size
    "max_connections": "60",
    "shared_buffers": "64MB",
    "effective_cache_size": "512MB",
    "work_mem": "4MB",
    "maintenance_work_mem": "64MB",
    "max_worker_processes": "4",
    "max_parallel_workers_per_gather": "0",
    "max_wal_senders": "2",
    "jit": "off",
    # the log
    "wal_compression": "on",
    "min_wal_size": "80MB",
    "max_wal_size": "512MB",
    "checkpoint_timeout": "10min",
    # the log never has a statement or its values, which may be personal data
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}

DURABILITY = ("fsync", "synchronous_commit", "full_page_writes")


def arguments(major: int, socket_dir: Path, extra: Mapping[str, str]) -> list[str]:
    """Returns the postmaster's arguments for our settings, `extra` ones winning."""
    settings = {**SETTINGS, "unix_socket_directories": str(socket_dir), "port": str(PORT)}
    if major >= MAJOR_WITH_IO_METHOD:
        settings["io_method"] = "sync"  # no pool of input workers: less memory
    settings.update(extra)
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def dangers(extra: Mapping[str, str]) -> Iterator[str]:
    """Yields a warning for each setting that lets acknowledged data be lost."""
    for name in DURABILITY:
        if extra.get(name, "on").lower() in {"off", "false", "no", "0"}:
            yield (
                f"PostgreSQL runs with {name} = off: what was acknowledged can be LOST when the "
                "machine stops. For throw-away data only."
            )


def fits_socket(folder: Path) -> bool:
    """Returns whether a socket in a folder has a path that the operating system accepts."""
    return len(str(folder / f".s.PGSQL.{PORT}.lock").encode()) <= SOCKET_PATH_BYTES_MAX
