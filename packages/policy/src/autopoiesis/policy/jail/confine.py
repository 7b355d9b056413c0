"""Shutting a process in: resource limits, no new privileges, landlock, seccomp, as far as the kernel has them."""

from __future__ import annotations

import ctypes
import math
import resource
from pathlib import Path
from typing import Final

from autopoiesis.policy.jail import landlock, seccomp
from autopoiesis.policy.jail.limits import Limits

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_SIGKILL: Final = 9


class Confinement:
    """Prepared once in the zygote, applied in each child."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._landlock = landlock.abi(self._libc)
        self._filters = (
            {threads: seccomp.program(threads=threads) for threads in (False, True)}
            if seccomp.supported()
            else {}
        )
        self._held = 0

    def measure(self) -> None:
        """Take note, in the zygote, of the address space that children start with."""
        self._held = int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()

    def die_with_parent(self) -> None:
        """Be killed when the zygote ends. Sound because the zygote has a single thread."""
        self._libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)

    def apply(self, limits: Limits) -> list[str]:
        """Confine this process for good; returns what is in force, in words."""
        done = ["own process, killed with its zygote", self._limit(limits)]
        self._libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        if self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            return done
        done.append("no new privileges")
        if landlock.restrict(self._libc, self._landlock):
            done.append(f"landlock ABI {self._landlock}: no files, {_landlock_extras(self._landlock)}")
        if self._filters and seccomp.install(self._libc, self._filters[limits.threads]):
            threads = "threads but no processes" if limits.threads else "no threads or processes"
            done.append(f"seccomp allow-list: no files, sockets, signals or tracing, {threads}")
        return done

    def _limit(self, limits: Limits) -> str:
        seconds = math.ceil(limits.cpu_s)
        for kind, value in (
            (resource.RLIMIT_AS, self._held + limits.memory_bytes),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_FSIZE, limits.result_bytes + 1),
        ):
            resource.setrlimit(kind, (value, value))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        if not limits.threads:
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        return "resource limits: address space, processor time, file size, no core dumps"


def _landlock_extras(version: int) -> str:
    extras = ["no TCP"] * (version >= 4) + ["no signals outside"] * (version >= 6)
    return ", ".join(extras) or "nothing else"
