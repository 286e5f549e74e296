"""Runs one server as a process: signals, the exit status, open files, the garbage collector.

SIGINT and SIGTERM end it; SIGHUP loads the registrations of application services again.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import resource
import signal

from homeserver import limits
from homeserver.api.http.server import CanNotListen
from homeserver.app.server import serving
from homeserver.config import Config
from homeserver.signing_keys import SigningKeyInvalid, SigningKeyMissing
from homeserver.storage.appservices.registration_files import RegistrationsInvalid
from homeserver.storage.database import DatabaseUnavailable
from homeserver.storage.migrate import SchemaTooNew
from local_postgres import EmbeddedError

_log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt` (malloc.h)."""

_CAN_NOT_START = (
    CanNotListen,
    DatabaseUnavailable,
    EmbeddedError,
    RegistrationsInvalid,
    SchemaTooNew,
    SigningKeyInvalid,
    SigningKeyMissing,
    OSError,
)
"""Reasons not to start; the text of each tells the operator the remedy."""


def run_until_signal(config: Config) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit status: 1 if the server can't start, or if
    another process took its log."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        return asyncio.run(_run(config))
    return uvloop.run(_run(config))


async def _run(config: Config) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    lost = asyncio.Event()

    def on_lost() -> None:
        lost.set()
        stop.set()

    raise_file_limit()
    keep_freed_memory()
    try:
        async with serving(config, on_lost=on_lost) as services:
            loop.add_signal_handler(signal.SIGHUP, services.appservices.registrations.reload)
            settle_memory()
            _log.info("%s is up", config.server_name)
            await stop.wait()
    except _CAN_NOT_START as error:
        _log.error("%s", error)
        return 1
    return 1 if lost.is_set() else 0


def raise_file_limit() -> None:
    """Raises the soft limit of open files to the hard one: each connection is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = limits.OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, limits.OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def keep_freed_memory() -> None:
    """Lets glibc keep up to `MALLOC_KEPT_BYTES` that were freed, and use them for all but the
    largest blocks. By itself it gives the pieces of media back to the system, which clears each
    page anew when the next ones come: as dear as hashing them. Other libraries have no such call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, limits.MALLOC_OWN_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, limits.MALLOC_KEPT_BYTES)


def settle_memory() -> None:
    """Freezes the present objects: the garbage collector needn't walk them again. Later ones are
    mostly freed by reference counts, so it looks for cycles less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
