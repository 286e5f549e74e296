"""A server as a process: what stops it from starting, and what the process is set to."""

from __future__ import annotations

import ctypes
import logging
import resource
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from homeserver import limits
from homeserver.config import Config
from homeserver.process import run_until_signal


def test_an_address_in_use_ends_with_1_and_says_so_before_anything_is_touched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "{}:{}".format(*taken.getsockname())
        table = {
            "server_name": "here.example",
            "data_dir": str(tmp_path / "data"),
            "signing_key_path": str(tmp_path / "signing.key"),
            "listeners": [{"address": address}],
        }
        assert run_until_signal(msgspec.convert(table, Config)) == 1
    assert f"{address} can't be listened at" in caplog.text
    assert caplog.records[-1].levelno == logging.ERROR
    assert list(tmp_path.iterdir()) == []


def test_as_many_files_are_opened_as_the_machine_allows() -> None:
    """In a process of its own: the limit can't be lowered again for others."""
    code = (
        "import resource as r; _, hard = r.getrlimit(r.RLIMIT_NOFILE);"
        "r.setrlimit(r.RLIMIT_NOFILE, (min(200, hard), hard));"
        "from homeserver.process import raise_file_limit; raise_file_limit();"
        "print(*r.getrlimit(r.RLIMIT_NOFILE))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    soft, hard = map(int, ran.stdout.split())
    assert soft == (min(hard, limits.OPEN_FILES) if hard >= 0 else limits.OPEN_FILES)


def test_a_settled_process_collects_less_often_and_not_what_is_there() -> None:
    """In a process of its own: the collector is everybody's."""
    code = (
        "import gc; before = gc.get_threshold()[0];"
        "from homeserver.process import settle_memory; settle_memory();"
        "print(gc.get_freeze_count() > 1000, gc.get_threshold()[0] > before)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", "True"]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_pieces_are_used_again_and_large_blocks_given_back() -> None:
    """In a process of its own: the allocator is everybody's."""
    pieces = limits.MALLOC_KEPT_BYTES // 2 // 200_000
    code = (
        "import resource, sys; from homeserver.process import keep_freed_memory;"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt;"
        "use = lambda size, count: [b'x' * size for _ in range(count)];"
        "keep_freed_memory() if len(sys.argv) > 1 else None;\n"
        f"for size, count in ((200_000, {pieces}), ({limits.MALLOC_OWN_BLOCK_BYTES}, 8)):\n"
        "    use(size, count); before = faults(); use(size, count); print(faults() - before)"
    )
    command = [sys.executable, "-c", code]
    by_itself, kept = (
        [int(line) for line in subprocess.check_output([*command, *more]).split()]
        for more in ((), ("kept",))
    )
    pages = limits.MALLOC_KEPT_BYTES // 2 // resource.getpagesize()
    assert kept[0] < pages / 4 < by_itself[0]
    assert kept[1] > pages
