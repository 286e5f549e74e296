"""Homeservers that run already: what the client-server API asks of them, and what they spend.

A target file (TOML) describes each: `name`, the first of `[[servers]]` with `client` (its base URL)
and `pid_file`, and `[database]` with the `pid_file` of its PostgreSQL.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

PASSWORD = "a long password of a measurement, 1"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Homeserver:
    """One of them; `costs` are CPU milliseconds for an operation, of server and database."""

    def __init__(self, target: Path, session: aiohttp.ClientSession) -> None:
        """Read the target file."""
        told = tomllib.loads(target.read_text())
        self.name: str = told["name"]
        self._url: str = told["servers"][0]["client"].rstrip("/")
        self._pid_files = [told["servers"][0]["pid_file"], told["database"]["pid_file"]]
        self._session = session
        self.token = ""
        self.costs: dict[str, list[tuple[float, float]]] = {}

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        query: Mapping[str, str] | None = None,
        statuses: Sequence[int] = (200,),
    ) -> Any:
        """Ask below /_matrix; return the answer's object, or its bytes if it isn't JSON. A body of
        bytes is sent as a JPEG picture."""
        bearer = self.token if token is None else token
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        if isinstance(body, bytes):
            headers["Content-Type"] = "image/jpeg"
        sent = {"data": body} if isinstance(body, bytes) else {"json": body}
        url = f"{self._url}/_matrix/{path}"
        async with self._session.request(
            method, url, headers=headers, params=query, **sent
        ) as answer:
            whole = await answer.read()
            assert answer.status in statuses, (
                f"{self.name}: {path}: {answer.status} {whole[:500]!r}"
            )
            return await answer.json() if answer.content_type == "application/json" else whole

    async def register(self, name: str) -> str:
        """Register a user; return the token."""
        body: Any = {"username": name, "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        path, right = "client/v3/register", (200, 401)
        answer = await self.call("POST", path, body, token="", statuses=right)
        if "session" in answer:
            body["auth"]["session"] = answer["session"]
            answer = await self.call("POST", path, body, token="")
        return str(answer["access_token"])

    async def log_in(self, name: str) -> None:
        """Log a user in on a further device."""
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": name},
            "password": PASSWORD,
        }
        await self.call("POST", "client/v3/login", body, token="")

    def spent_ms(self) -> tuple[float, float]:
        """Return the CPU that the server's processes and the database's have used."""
        server, database = (
            _tree_ms(int(Path(one).read_text().split()[0])) for one in self._pid_files
        )
        return server, database


def _tree_ms(root: int) -> float:
    """Return the CPU of a process and of all below it, of those that have ended too."""
    children: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended just now
            children.setdefault(int(fields[1]), []).append(int(folder.name))
            used[int(folder.name)] = sum(map(int, fields[11:15])) * 1000 / TICKS_PER_S
    total, todo = 0.0, [root]
    while todo:
        process = todo.pop()
        total += used.get(process, 0.0)
        todo += children.get(process, [])
    return total
