"""One supervisor per data directory."""

import fcntl
import os
import time
from pathlib import Path

from autopoiesis.runtime.errors import OperatorError

PATIENCE = 20.0
"""Seconds granted to the children of a dead supervisor to finish stopping."""


class DataDirectoryInUseError(OperatorError):
    """Another supervisor holds this data directory."""


def lock_directory(directory: Path, *, patience: float = PATIENCE) -> int:
    """Lock `directory` for this process and its guardians; returns the descriptor that holds the lock.

    Guardians inherit the descriptor, so the lock lasts until the last child of a killed supervisor has gone: a
    new supervisor waits `patience` seconds for that instead of starting a second server on the same files.

    Raises `DataDirectoryInUseError`, naming the pid, when a living supervisor holds the lock.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "supervisor.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + patience
    try:
        while not _try_lock(fd):
            pid = _read_pid(fd)
            if pid is not None and _alive(pid):
                raise DataDirectoryInUseError(
                    f"data directory {directory} is in use by process {pid}: stop that process, or choose another data directory"
                )
            if time.monotonic() > deadline:
                raise DataDirectoryInUseError(
                    f"data directory {directory}: its last supervisor (process {pid}) is dead, but after {patience:.0f} s "
                    f"processes it started still hold {path}; `fuser {path}` names them"
                )
            time.sleep(0.02)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pid(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
