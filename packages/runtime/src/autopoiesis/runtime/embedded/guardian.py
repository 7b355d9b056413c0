"""Run one program; stop it, and everything it started, when the pipe to the supervisor ends.

Run as ``python -I -S guardian.py SPEC`` with the standard library only, so that it starts in about 20 ms. A pipe's
end-of-file is the one signal of a parent's death that neither SIGKILL nor a finished thread can falsify.

SPEC is a JSON object: ``argv``, ``control`` (fd; a byte or end-of-file means stop), ``report`` (fd; receives
``pid N`` and ``exit CODE``), ``held`` (fds kept open for as long as the guardian lives), ``passed`` (fds handed to
the program), ``stop_signal`` and ``grace`` (seconds between that signal and SIGKILL).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
from typing import Any, NoReturn

LINUX = sys.platform == "linux"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main(spec: dict[str, Any]) -> int:
    for fd in (spec["control"], spec["report"], *spec["held"]):
        os.set_inheritable(fd, False)
    libc = ctypes.CDLL(None) if LINUX else None
    if libc is not None:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, *STOP_SIGNALS):
        signal.signal(number, lambda *_: None)

    signal.pthread_sigmask(
        signal.SIG_BLOCK, STOP_SIGNALS
    )  # or the child, until exec, would swallow them as we do
    guardian = os.getpid()
    child = os.fork()
    if child == 0:
        become(spec["argv"], guardian, libc)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    for fd in spec["passed"]:
        os.close(fd)
    report(spec["report"], f"pid {child}")
    code = watch(child, spec, wake_read)
    sweep(child)
    report(spec["report"], f"exit {code}")
    return 0


def become(argv: list[str], guardian: int, libc: Any) -> NoReturn:
    try:
        os.setsid()
        for number in (signal.SIGPIPE, *STOP_SIGNALS):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        if libc is not None:  # sound here: this guardian is single-threaded, so the signal means that it died
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != guardian:  # it died before it could be heard to
                os._exit(127)
        os.execvp(argv[0], argv)  # noqa: S606
    except OSError as error:
        os.write(2, f"cannot run {argv[0]}: {error}\n".encode())
    os._exit(127)


def watch(child: int, spec: dict[str, Any], wake_read: int) -> int:
    """Wait for the child, stopping it when told; returns its exit code (negative: the signal that ended it)."""
    kill_at: float | None = None
    while True:
        sources = [wake_read] if kill_at is not None else [wake_read, spec["control"]]
        timeout = None if kill_at is None else max(0.0, kill_at - time.monotonic())
        ready, _, _ = select.select(sources, [], [], timeout)
        stop = spec["control"] in ready
        if wake_read in ready:
            stop |= any(number != signal.SIGCHLD for number in os.read(wake_read, 64))
        code = reap(child)
        if code is not None:
            return code
        if stop and kill_at is None:
            os.kill(child, spec["stop_signal"])
            os.kill(child, signal.SIGCONT)  # a stopped process would sit out the grace period
            kill_at = time.monotonic() + spec["grace"]
        elif kill_at is not None and time.monotonic() >= kill_at:
            os.kill(child, signal.SIGKILL)


def reap(child: int) -> int | None:
    """Collect every dead process adopted as subreaper; the child's exit code if it was among them."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
    return code


def sweep(child: int) -> None:
    """Kill whatever the child left behind: its process group, then every orphan that came to us."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    while LINUX:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            for orphan in children_of(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGKILL)
            time.sleep(0.005)


def children_of(parent: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - pathlib doubles the start-up time
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", encoding="utf-8") as stat:  # noqa: PTH123
                if int(stat.read().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(entry))
    return found


def report(fd: int, line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the supervisor is gone: nobody left to tell
        os.write(fd, f"{line}\n".encode())


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
