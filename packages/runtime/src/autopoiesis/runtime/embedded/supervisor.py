"""Start processes so that none outlives this one."""

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from signal import SIGTERM
from types import TracebackType
from typing import Self

from autopoiesis.runtime.embedded.child import Child, Command, Ready
from autopoiesis.runtime.embedded.lock import PATIENCE, lock_directory

log = logging.getLogger(__name__)

ExitCallback = Callable[[Child, int], None]


class Supervisor:
    """Owns a data directory and the processes started in it.

    Every method is thread-safe; `start` and `stop` block, so a coroutine calls them through `asyncio.to_thread`.
    However this process ends (return, signal, SIGKILL), its children are stopped gracefully and then killed.

    Raises `DataDirectoryInUseError` when another supervisor uses the directory.
    """

    def __init__(
        self, data_dir: Path, *, on_exit: ExitCallback | None = None, patience: float = PATIENCE
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.children: dict[str, Child] = {}
        self._on_exit = on_exit
        self._mutex = threading.Lock()
        self._closed = False
        self._lock_fd = lock_directory(self.data_dir, patience=patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready: Ready = None,
        timeout: float = 30.0,
        restart: bool = False,
        stop_signal: int = SIGTERM,
        grace: float = 10.0,
        layer: int = 1,
    ) -> Child:
        """Start a process and block until it is ready.

        `env` is added to this process's environment. `ready` is a probe, or ``"notify"``: the process calls
        `autopoiesis.runtime.lifecycle.notify_ready`. `restart` restarts it with back-off whenever it ends by itself,
        once it has been ready. Children of a higher `layer` stop before those of a lower one. `timeout` and `grace` are seconds.

        Raises `ChildFailedError`, with the end of its log, when the process ends or is not ready in time.
        """
        command = Command(
            name=name,
            argv=tuple(map(str, argv)),
            env={**os.environ, **(env or {})},
            log=self.data_dir / "logs" / f"{name}.log",
            cwd=cwd,
            restart=restart,
            stop_signal=stop_signal,
            grace=grace,
            layer=layer,
        )
        with self._mutex:
            if self._closed:
                raise RuntimeError(f"cannot start {name}: the supervisor is stopping")
            existing = self.children.get(name)
            if existing is not None and existing.alive:
                raise ValueError(f"a process named {name!r} is already running (pid {existing.pid})")
            child = self.children[name] = Child(command, lock_fd=self._lock_fd, on_exit=self._exited)
        try:
            child.wait_ready(ready, timeout)
        except BaseException:
            child.stop()
            raise
        return child

    def stop(self) -> None:
        """Stop all children, highest layer first, each layer at once. Bounded by their grace periods. Idempotent."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            children = sorted(self.children.values(), key=lambda child: -child.command.layer)
        for _, group in groupby(children, key=lambda child: child.command.layer):
            members = list(group)
            for child in members:
                child.request_stop()
            for child in members:
                if child.wait(child.command.grace + 5.0) is None and child.alive:
                    log.error("%s (pid %s) did not stop", child.name, child.pid)
        os.close(self._lock_fd)

    def _exited(self, child: Child, code: int) -> None:
        log.warning("%s ended with code %d%s", child.name, code, "; restarting" if child.restarting else "")
        if self._on_exit is not None:
            self._on_exit(child, code)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
