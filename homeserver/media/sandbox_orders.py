"""What is said to a process of the sandbox, and what it says: one line of JSON, then bytes.

Rules:
1. The server writes an `Order` and its input; the process writes a `JobOutcome` and its result, and
   ends. Both are read within limits: a process that read hostile bytes may say anything.
2. `SandboxBounds` and the modules with the jobs are given to the sandbox at its start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import NamedTuple, TypeAlias

import msgspec

from homeserver import limits


class SandboxBounds(msgspec.Struct, frozen=True):
    """What each process may use. `modules` have the jobs: a mapping `JOBS`."""

    modules: tuple[str, ...]
    memory_bytes: int = limits.SANDBOX_MEMORY_BYTES
    wall_s: float = limits.SANDBOX_WALL_S


class JobKind(NamedTuple):
    """The name of a job, and the CPU time that it may take, in seconds."""

    name: str
    cpu_s: int


class Order(msgspec.Struct, frozen=True):
    """One job: its name and CPU time, its parameters, and how many bytes of input follow."""

    job: str
    cpu_s: int
    parameters: msgspec.Raw
    input_bytes: int


class JobRefusal(Enum):
    """Why there is no result."""

    UNREADABLE = "unreadable"
    """The input isn't what the job reads, or is broken."""
    TOO_LARGE = "too_large"
    """The input is larger than what is decoded."""
    FAILED = "failed"
    """The process was ended by a limit, by itself, or by an error."""


class JobOutcome(msgspec.Struct, frozen=True):
    """What came of a job: `facts`, before the bytes of the result; or the reason why not."""

    facts: msgspec.Raw = msgspec.Raw(b"null")
    refusal: JobRefusal | None = None


class JobRefused(Exception):
    """The job has no result."""

    def __init__(self, refusal: JobRefusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


Job: TypeAlias = Callable[[msgspec.Raw, bytes], tuple[msgspec.Struct, bytes]]
"""Takes the parameters and the input, returns the facts and the result. Raises JobRefused."""

Jobs: TypeAlias = Mapping[str, Job]
