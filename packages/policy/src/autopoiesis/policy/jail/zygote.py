"""The process that jobs are forked from: single-threaded, with everything imported, that never runs a job itself."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

from autopoiesis.policy.jail import preloads
from autopoiesis.policy.jail.confine import Confinement
from autopoiesis.policy.jail.limits import Limits

MESSAGE_BYTES: Final = 65_536
EXIT_RAISED: Final = 3
EXIT_MEMORY: Final = 4
_TRACEBACK_BYTES: Final = 16_384


class Zygote:
    """Serves one control socket until its other end closes."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._confinement = Confinement()
        self._null = os.open(os.devnull, os.O_RDWR)
        self._woken, self._wake = os.pipe()
        self._jobs: dict[int, tuple[int, float]] = {}
        """Process id to job number and deadline on the monotonic clock."""
        self._late: set[int] = set()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Announce readiness, then fork for jobs and report their ends until the parent goes away."""
        threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
        if threads != 1:
            raise RuntimeError(
                f"the imported modules started {threads - 1} threads; a forked copy could spin for ever"
            )
        self._settle()
        self._send({"ready": self._probe()})
        waiting = select.poll()
        waiting.register(self._control, select.POLLIN)
        waiting.register(self._woken, select.POLLIN)
        try:
            while True:
                ready = dict(waiting.poll(self._patience_ms()))
                self._reap()
                self._kill_late()
                if self._control.fileno() in ready and not self._receive():
                    return
        finally:
            for pid in self._jobs:
                os.kill(pid, signal.SIGKILL)

    def _settle(self) -> None:
        """Everything that is loaded stays: children neither collect it nor count it as theirs."""
        gc.collect()
        gc.freeze()
        self._confinement.measure()

    def _probe(self) -> list[str]:
        """What confinement really holds here: a child applies it and tells."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                os.write(writer, json.dumps(self._confinement.apply(Limits())).encode())
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as pipe:  # noqa: PTH123
            text = pipe.read()
        os.waitpid(pid, 0)
        return list(json.loads(text)) if text else []

    def _send(self, message: dict[str, Any]) -> None:
        self._control.send(json.dumps(message).encode())

    def _patience_ms(self) -> float | None:
        due = [deadline for pid, (_, deadline) in self._jobs.items() if pid not in self._late]
        return max(0.0, (min(due) - time.monotonic()) * 1000) + 1 if due else None

    def _kill_late(self) -> None:
        now = time.monotonic()
        for pid, (_, deadline) in self._jobs.items():
            if now >= deadline and pid not in self._late:
                self._late.add(pid)
                os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 4096)
        for pid in list(self._jobs):
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                number, _ = self._jobs.pop(pid)
                late = pid in self._late
                self._late.discard(pid)
                cpu = usage.ru_utime + usage.ru_stime
                self._send(
                    {"job": number, "code": os.waitstatus_to_exitcode(status), "late": late, "cpu_s": cpu}
                )

    def _receive(self) -> bool:
        """Handle one message; False when the parent is gone."""
        data, files, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 2)
        if not data:
            return False
        message = json.loads(data)
        try:
            if "job" in message:
                self._fork(message, *files)
            elif "preload" in message:
                self._preload(message, files[0])
            else:
                preloads.drop(message["forget"])
        finally:
            for file in files:
                os.close(file)
        return True

    def _preload(self, message: dict[str, Any], file: int) -> None:
        try:
            data = read_all(file)
            preloads.hold(message["preload"], resolve(message["loader"])(data) if message["loader"] else data)
            self._settle()
            self._send({"preloaded": message["preload"], "error": ""})
        except Exception:
            self._send({"preloaded": message["preload"], "error": traceback.format_exc()[-_TRACEBACK_BYTES:]})

    def _fork(self, message: dict[str, Any], payload: int, result: int) -> None:
        limits = Limits(**message["limits"])
        pid = os.fork()
        if pid == 0:
            code = EXIT_RAISED
            try:
                code = self._child(message["function"], limits, payload, result)
            finally:
                os._exit(code)
        self._jobs[pid] = (message["job"], time.monotonic() + limits.wall_s)

    def _child(self, function: str, limits: Limits, payload: int, result: int) -> int:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._confinement.die_with_parent()
        self._control.close()
        for standard in (0, 1, 2):
            os.dup2(self._null, standard)
        data = read_all(payload)
        for file in (payload, self._null, self._woken, self._wake):
            os.close(file)
        self._confinement.apply(limits)
        try:
            write_all(result, resolve(function)(data))
        except MemoryError:
            return EXIT_MEMORY
        except BaseException:
            write_all(result, traceback.format_exc()[-_TRACEBACK_BYTES:].encode("utf-8", "replace"))
            return EXIT_RAISED
        return 0


def resolve(name: str) -> Callable[[bytes], Any]:
    """The function `package.module:name`, of a module that is already imported."""
    module, _, attribute = name.partition(":")
    if module not in sys.modules:
        raise LookupError(f"{module} was not imported when the jail started; name it in Jail(modules=...)")
    function: Callable[[bytes], Any] = getattr(sys.modules[module], attribute)
    return function


def read_all(file: int) -> bytes:
    """The whole content of an open file, from its start."""
    size = os.fstat(file).st_size
    parts = []
    offset = 0
    while offset < size:
        part = os.pread(file, size - offset, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def write_all(file: int, data: bytes) -> None:
    """Write all of `data`. Raises TypeError unless it is bytes, OSError past the size limit."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"a jailed function returns bytes, not {type(data).__name__}")
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def main(arguments: list[str]) -> None:
    """`python -m autopoiesis.policy.jail CONTROL_FD MODULE...`: become a zygote."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(arguments[0]))
    try:
        for module in arguments[1:]:
            importlib.import_module(module)
        Zygote(control).serve()
    except Exception:
        with contextlib.suppress(OSError):
            control.send(json.dumps({"failed": traceback.format_exc()[-_TRACEBACK_BYTES:]}).encode())
        raise SystemExit(1) from None
