"""One supervised process."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autopoiesis.runtime.errors import OperatorError

GUARDIAN = Path(__file__).with_name("guardian.py")
LOG_LIMIT = 10 * 1024 * 1024
READY_FD = "AUTOPOIESIS_READY_FD"
HEALTHY_AFTER = 10.0
BACKOFF_MIN, BACKOFF_MAX = 0.2, 10.0

Ready = Callable[[], bool] | Literal["notify"] | None


class ChildFailedError(OperatorError):
    """A child ended, or was not ready in time; the message holds the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run. Times are seconds; `stop_signal` is followed by SIGKILL after `grace`."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    cwd: Path | None = None
    restart: bool = False
    stop_signal: int = signal.SIGTERM
    grace: float = 10.0
    layer: int = 1


class Child:
    """A process under its guardian, watched (and restarted with back-off if so asked) by one thread."""

    def __init__(self, command: Command, *, lock_fd: int, on_exit: Callable[["Child", int], None]) -> None:
        self.command = command
        self.pid: int | None = None
        self.returncode: int | None = None
        self.restarts = 0
        self.ready: dict[str, Any] | None = None
        """What the process reported when it became ready, or None until then."""
        self._lock_fd = lock_fd
        self._on_exit = on_exit
        self._control: int | None = None
        self._stopping = threading.Event()
        self._established = False
        self._log_start = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._watch, name=f"watch-{command.name}", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return self.command.name

    @property
    def log(self) -> Path:
        return self.command.log

    @property
    def restarting(self) -> bool:
        """Whether it is started again when it ends by itself: it was ready once."""
        return self.command.restart and self._established

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def signal(self, number: int) -> None:
        """Send a signal to the process itself (its guardian stays)."""
        if self.pid is not None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def request_stop(self) -> None:
        """Begin a graceful stop: the stop signal now, SIGKILL after the grace period. Returns at once."""
        self._stopping.set()
        with self._changed:
            if self._control is not None:
                os.close(self._control)
                self._control = None

    def stop(self) -> int | None:
        """Stop and wait; returns the exit code. Bounded by the grace period."""
        self.request_stop()
        return self.wait(self.command.grace + 5.0)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the process has ended for good (restarts included); None when `timeout` seconds passed."""
        self._thread.join(timeout)
        return None if self._thread.is_alive() else self.returncode

    def wait_ready(self, probe: Ready, timeout: float) -> None:
        """Block until ready; only from then on is it restarted.

        Raises `ChildFailedError` when the process ends first or `timeout` seconds pass.
        """
        deadline = time.monotonic() + timeout
        while not (self.ready is not None if probe == "notify" else probe is None or probe()):
            if not self.alive or self._stopping.is_set():
                raise ChildFailedError(
                    f"{self.name} ended with code {self.returncode} before it was ready; end of {self.log}:\n{self.tail()}"
                )
            if time.monotonic() > deadline:
                raise ChildFailedError(
                    f"{self.name} was not ready after {timeout:.0f} s; end of {self.log}:\n{self.tail()}"
                )
            with self._changed:
                self._changed.wait(0.02)
        self._established = True

    def tail(self, lines: int = 20) -> str:
        """The end of what it wrote since it was last started."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"

    def _watch(self) -> None:
        delay = BACKOFF_MIN
        while not self._stopping.is_set():
            started = time.monotonic()
            code = self._run_once()
            if self._stopping.is_set():
                return
            self._on_exit(self, code)
            if not self.restarting:
                return
            delay = BACKOFF_MIN if time.monotonic() - started > HEALTHY_AFTER else min(delay * 2, BACKOFF_MAX)
            self._stopping.wait(delay)
            self.restarts += 1

    def _run_once(self) -> int:
        report_read, report_write = os.pipe()
        ready_read, ready_write = os.pipe()
        control_read, control_write = os.pipe()
        theirs = (report_write, ready_write, control_read)
        try:
            guardian = self._spawn(*theirs)
            with self._changed:
                self.ready = self.returncode = None
                self._control = control_write
            if self._stopping.is_set():
                self.request_stop()
            for fd in theirs:
                os.close(fd)
            code = self._follow(report_read, ready_read)
            guardian.wait()
        finally:
            os.close(report_read)
            os.close(ready_read)
            with self._changed:
                if self._control is not None:
                    os.close(self._control)
                self._control = self.pid = None
        with self._changed:
            self.returncode = code
            self._changed.notify_all()
        return code

    def _spawn(self, report: int, ready: int, control: int) -> subprocess.Popen[bytes]:
        command = self.command
        spec = {
            "argv": command.argv,
            "control": control,
            "report": report,
            "held": [self._lock_fd],
            "passed": [ready],
            "stop_signal": int(command.stop_signal),
            "grace": command.grace,
        }
        with _open_log(command.log) as log:
            self._log_start = log.tell()
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARDIAN), json.dumps(spec)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=command.cwd,
                env={**command.env, READY_FD: str(ready)},
                pass_fds=(report, ready, control, self._lock_fd),
                start_new_session=True,
            )

    def _follow(self, report: int, ready: int) -> int:
        """Read the guardian's report until it ends; returns the exit code, -SIGKILL if the guardian was killed."""
        code = -signal.SIGKILL
        buffers = {report: b"", ready: b""}
        with selectors.DefaultSelector() as selector:
            selector.register(report, selectors.EVENT_READ)
            selector.register(ready, selectors.EVENT_READ)
            while report in selector.get_map():
                for key, _ in selector.select():
                    data = os.read(key.fd, 65536)
                    if not data:
                        selector.unregister(key.fd)
                        continue
                    *lines, buffers[key.fd] = (buffers[key.fd] + data).split(b"\n")
                    for line in lines:
                        if key.fd == ready:
                            self._became_ready(line)
                        elif line.startswith(b"pid "):
                            self.pid = int(line[4:])
                        else:
                            code = int(line.removeprefix(b"exit "))
        return code

    def _became_ready(self, line: bytes) -> None:
        info: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            decoded = json.loads(line)
            info = decoded if isinstance(decoded, dict) else {}
        with self._changed:
            self.ready = info
            self._established = True
            self._changed.notify_all()


def _open_log(path: Path) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")
