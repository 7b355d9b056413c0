"""`Jail`: runs functions in processes that can neither see nor touch anything but their input."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from autopoiesis.policy.jail.errors import JailCrash, JailError, JailMemory, JailTimeout
from autopoiesis.policy.jail.limits import Job, Limits
from autopoiesis.policy.jail.zygote import EXIT_MEMORY, EXIT_RAISED, MESSAGE_BYTES, read_all, write_all

_START_S: Final = 60.0
_STOP_S: Final = 5.0
_KEPT_ENVIRONMENT: Final = (
    "PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "LANG",
    "LC_ALL",
    "TZ",
)
_ENVIRONMENT: Final = {
    "PYTHONHASHSEED": "0",
    **dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
    ),
}
"""One thread per library: a fork of a process with threads can hang."""


@dataclass(slots=True)
class _Pending:
    job: Job
    limits: Limits
    future: Future[bytes]
    result: int = -1


class Jail:
    """A pool of up to `workers` jailed processes, forked from one zygote that imported `modules`.

    Thread-safe. Blocking calls are `start`, `run`, `preload` and `close`; `submit` returns at once, and its future can
    be awaited with `asyncio.wrap_future`. If the zygote dies, running jobs fail with `JailCrash` and the next call
    starts another one.

    Attributes:
        isolation: what confines the jobs on this machine, in words; known once started.
    """

    def __init__(self, modules: Sequence[str], *, workers: int = 2, limits: Limits = Limits()) -> None:  # noqa: B008
        if workers < 1:
            raise ValueError(f"workers is {workers}; a jail needs at least one")
        self.isolation: tuple[str, ...] = ()
        self._modules = tuple(modules)
        self._workers = workers
        self._limits = limits
        self._lock = threading.RLock()
        self._waiting: deque[_Pending] = deque()
        self._running: dict[int, _Pending] = {}
        self._preloads: dict[str, tuple[int, str]] = {}
        self._loading: dict[str, Future[None]] = {}
        self._number = 0
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the zygote if none is alive; blocks until it has imported its modules.

        Raises:
            JailError: this is not Linux, a module does not import, or importing started threads.
        """
        with self._lock:
            if self._control is None:
                self._spawn()

    def run(self, job: Job) -> bytes:
        """The job's result; raises JailError or one of its kinds."""
        return self.submit(job).result()

    def submit(self, job: Job) -> Future[bytes]:
        """Queue a job. A future that is cancelled before its turn never starts."""
        self.start()
        pending = _Pending(job, job.limits or self._limits, Future())
        with self._lock:
            self._waiting.append(pending)
            self._start_waiting()
        return pending.future

    def preload(self, key: str, data: bytes, loader: str = "") -> None:
        """Hand `data` to the zygote once; jobs read it with `preloaded(key)`.

        `loader`, a function `package.module:name` of an imported module, turns it into what the jobs see. It runs
        unconfined in the zygote: only for trusted code and data.

        Raises:
            JailError: the loader raised.
        """
        self.start()
        with self._lock:
            self._forget_file(key)
            self._preloads[key] = (_memory_file(f"preload-{key}", data), loader)
            loaded = self._send_preload(key)
        loaded.result()

    def forget(self, key: str) -> None:
        """Let the zygote drop what was preloaded under `key`."""
        with self._lock:
            self._forget_file(key)
            if self._control is not None:
                self._control.send(json.dumps({"forget": key}).encode())

    def close(self) -> None:
        """Kill what runs, end the zygote and wait for it. Unfinished jobs fail with JailCrash."""
        with self._lock:
            control, process = self._control, self._process
            for key in list(self._preloads):
                self._forget_file(key)
            self._drop("the jail was closed")
        if control is not None and process is not None:
            control.shutdown(socket.SHUT_RDWR)  # closing alone would not wake the listener
            control.close()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # the zygote

    def _spawn(self) -> None:
        if not sys.platform.startswith("linux"):
            raise JailError("the jail needs Linux: it confines processes with landlock and seccomp")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {
            name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ
        } | _ENVIRONMENT
        command = [sys.executable, "-m", "autopoiesis.policy.jail", str(theirs.fileno()), *self._modules]
        with theirs:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment, cwd="/",
                pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip
        ours.settimeout(_START_S)
        try:
            hello = json.loads(ours.recv(MESSAGE_BYTES) or b'{"failed": "it ended before it was ready"}')
        except TimeoutError:
            hello = {"failed": f"it was not ready after {_START_S:.0f} s"}
        if "ready" not in hello:
            ours.close()
            process.kill()
            process.wait()
            raise JailError(f"the zygote did not start: {hello['failed']}")
        ours.settimeout(None)
        self.isolation = tuple(hello["ready"])
        self._control, self._process = ours, process
        threading.Thread(target=self._listen, args=(ours, process), name="jail", daemon=True).start()
        for key in self._preloads:
            self._send_preload(key)

    def _listen(self, control: socket.socket, process: subprocess.Popen[bytes]) -> None:
        while True:
            try:
                data = control.recv(MESSAGE_BYTES)
            except OSError:
                data = b""
            with self._lock:
                if not data:
                    if self._control is control:
                        control.close()
                        process.wait()
                        self._drop("the zygote ended unexpectedly")
                    return
                self._handle(json.loads(data))

    def _handle(self, message: dict[str, Any]) -> None:
        if "job" in message:
            pending = self._running.pop(message["job"])
            _settle(pending, message)
            self._start_waiting()
        else:
            loading = self._loading.pop(message["preloaded"], None)
            if loading is not None:
                if message["error"]:
                    loading.set_exception(JailError(message["error"]))
                else:
                    loading.set_result(None)

    def _drop(self, why: str) -> None:
        """Forget the zygote and fail everything that waited for it."""
        self._control = self._process = None
        failed = [*self._running.values(), *self._waiting]
        self._running.clear()
        self._waiting.clear()
        for pending in failed:
            if pending.result >= 0:
                os.close(pending.result)
            if not pending.future.cancelled():
                pending.future.set_exception(JailCrash(0, why))
        for loading in self._loading.values():
            loading.set_exception(JailCrash(0, why))
        self._loading.clear()

    # jobs

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < self._workers and self._control is not None:
            pending = self._waiting.popleft()
            if pending.future.set_running_or_notify_cancel():
                self._launch(self._control, pending)

    def _launch(self, control: socket.socket, pending: _Pending) -> None:
        self._number += 1
        payload = _memory_file("payload", pending.job.payload)
        pending.result = _memory_file("result", b"")
        header = {"job": self._number, "function": pending.job.function, "limits": asdict(pending.limits)}
        self._running[self._number] = pending
        with contextlib.suppress(OSError):
            # if the zygote is gone, the listener sees that too and fails this job with the others
            socket.send_fds(control, [json.dumps(header).encode()], [payload, pending.result])
        os.close(payload)

    def _send_preload(self, key: str) -> Future[None]:
        file, loader = self._preloads[key]
        loaded: Future[None] = Future()
        self._loading[key] = loaded
        assert self._control is not None, "start() ran before"
        with contextlib.suppress(OSError):
            socket.send_fds(self._control, [json.dumps({"preload": key, "loader": loader}).encode()], [file])
        return loaded

    def _forget_file(self, key: str) -> None:
        if key in self._preloads:
            os.close(self._preloads.pop(key)[0])


def _memory_file(name: str, data: bytes) -> int:
    file = os.memfd_create(name, os.MFD_CLOEXEC)
    write_all(file, data)
    return file


def _settle(pending: _Pending, message: dict[str, Any]) -> None:
    """Give the future its result, or the error that the child's end means."""
    code, limits = message["code"], pending.limits
    try:
        size = os.fstat(pending.result).st_size
        data = read_all(pending.result) if code in {0, EXIT_RAISED} and size <= limits.result_bytes else b""
    finally:
        os.close(pending.result)
    if message["late"]:
        pending.future.set_exception(JailTimeout(f"stopped after {limits.wall_s} s"))
    elif code == -signal.SIGXCPU or (code == -signal.SIGKILL and message["cpu_s"] >= limits.cpu_s):
        pending.future.set_exception(JailTimeout(f"stopped after {limits.cpu_s} s of processor time"))
    elif code == EXIT_MEMORY:
        pending.future.set_exception(JailMemory(f"needed more than {limits.memory_bytes} bytes"))
    elif code == -signal.SIGXFSZ or size > limits.result_bytes:
        pending.future.set_exception(JailError(f"the result has more than {limits.result_bytes} bytes"))
    elif code < 0:
        pending.future.set_exception(JailCrash(-code))
    elif code == 0:
        pending.future.set_result(data)
    else:
        pending.future.set_exception(JailError(data.decode("utf-8", "replace") or f"ended with code {code}"))
