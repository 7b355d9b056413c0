"""The process of one engine: started under a guardian, talked to over a socket, and gone without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Final, Self

from autopoiesis.runtime.embedded.child import GUARDIAN
from autopoiesis.worker.engines.frames import Link, ToNode

GRACE_S: Final = 10.0
"""Between SIGTERM and SIGKILL."""


class Child:
    """One life of an engine's process.

    The guardian stops it and everything that it started (vLLM's own core and worker processes) when this process asks,
    or dies in whatever way: accelerators never stay occupied by orphans.
    """

    def __init__(
        self, guardian: asyncio.subprocess.Process, control: int, report: int, link: Link[ToNode]
    ) -> None:
        self.link = link
        self.pid: int | None = None
        """Of the engine's process, once it runs."""
        self._guardian = guardian
        self._control: int | None = control
        self._report = report

    @classmethod
    async def start(cls, argv: Sequence[str], env: Mapping[str, str]) -> Self:
        """Run `argv` with `--fd N`, the engine's end of the socket. `env` is added to this process's."""
        ours, theirs = socket.socketpair()
        report_read, report_write = os.pipe()
        control_read, control_write = os.pipe()
        spec = {
            "argv": [*argv, "--fd", str(theirs.fileno())],
            "control": control_read,
            "report": report_write,
            "held": [],
            "passed": [theirs.fileno()],
            "stop_signal": int(signal.SIGTERM),
            "grace": GRACE_S,
        }
        try:
            guardian = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                str(GUARDIAN),
                json.dumps(spec),
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, **env},
                pass_fds=(theirs.fileno(), report_write, control_read),
                start_new_session=True,
            )
        except BaseException:
            for fd in (report_read, control_write):
                os.close(fd)
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(report_write)
            os.close(control_read)
        child = cls(guardian, control_write, report_read, await Link.over(ours, ToNode))
        child.pid = await asyncio.to_thread(child._read_pid)
        return child

    def ask_to_stop(self) -> None:
        """SIGTERM now, SIGKILL after `GRACE_S` seconds."""
        if self._control is not None:
            os.close(self._control)
            self._control = None

    async def ended(self) -> int | None:
        """Wait until the process and all that it started have gone; its exit code, negative for a signal."""
        await self._guardian.wait()
        self.ask_to_stop()
        self.link.close()
        with contextlib.suppress(OSError), os.fdopen(self._report, "rb") as report:
            for line in report.read().split(b"\n"):
                if line.startswith(b"exit "):
                    return int(line.removeprefix(b"exit "))
        return None

    def _read_pid(self) -> int | None:
        line = b""
        while not line.endswith(b"\n"):
            byte = os.read(self._report, 1)
            if not byte:
                return None
            line += byte
        return int(line.removeprefix(b"pid "))
