"""What a jailed job may use, and what it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one job.

    Attributes:
        wall_s: seconds of wall clock, then the process is killed.
        cpu_s: seconds of processor time, rounded up to whole seconds by the kernel.
        memory_bytes: address space beyond what the zygote itself holds.
        result_bytes: largest result.
        threads: allow threads (never processes), for solvers that insist.
    """

    wall_s: float = 30.0
    cpu_s: float = 30.0
    memory_bytes: int = 1 << 30
    result_bytes: int = 16 << 20
    threads: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """`function` is `package.module:name` of a function bytes -> bytes in a module the jail imported at its start."""

    function: str
    payload: bytes = b""
    limits: Limits | None = None
