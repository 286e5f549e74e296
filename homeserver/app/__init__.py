"""Wires the server: the only package that creates its objects.

`run` serves a configuration until SIGINT or SIGTERM. The parts are created in `engine`,
`federation` and `services`, each from the ones before; `server` starts and stops them in order.
"""

from __future__ import annotations

from homeserver.config import Config


def run(config: Config) -> int:
    """Runs the server; returns the process's exit status."""
    from homeserver.app.server import run_until_signal

    return run_until_signal(config)
