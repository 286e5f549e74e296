"""moto's S3 server, by other people, as a process with an empty bucket."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

from homeserver.config_media import S3Settings
from tests.hostile.clients.running_server import free_port

BUCKET = "media"
START_S = 60


def s3_settings(endpoint: str, *, prefix: str = "", bucket: str = BUCKET) -> S3Settings:
    """The configuration of a store in the server's bucket."""
    return S3Settings(
        bucket=bucket,
        prefix=prefix,
        endpoint=endpoint,
        access_key_id="key",
        secret_access_key="secret",
    )


@contextmanager
def s3_server() -> Iterator[str]:
    """Yields the address of the running server."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline_s = time.monotonic() + START_S
        while not _has_bucket(url):
            assert server.poll() is None, "moto's server has ended"
            assert time.monotonic() < deadline_s, "moto's server doesn't start"
            time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


def _has_bucket(url: str) -> bool:
    try:
        with urlopen(Request(f"{url}/{BUCKET}", method="PUT")) as response:
            return bool(response.status == 200)
    except OSError:
        return False
