"""What tests run inside the jail. Everything is imported here, because a jailed process can open nothing."""

import ctypes
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from autopoiesis.policy.jail import preloaded

_LIBC = ctypes.CDLL(None, use_errno=True)
_PTRACE_ATTACH = 16


def echo(payload: bytes) -> bytes:
    return payload


def raise_value_error(payload: bytes) -> bytes:
    raise ValueError(payload.decode())


def spin(payload: bytes) -> bytes:
    while True:
        pass


def devour(payload: bytes) -> bytes:
    held = []
    while True:
        held.append(bytearray(8 << 20))


def crash(payload: bytes) -> bytes:
    ctypes.string_at(0)
    return b""


def answer_of(payload: bytes) -> bytes:
    return bytes(int(payload))


def answer_text(payload: bytes) -> str:
    return "not bytes"


def length_of_preloaded(payload: bytes) -> bytes:
    return str(len(preloaded(payload.decode()))).encode()


def doubled(data: bytes) -> bytes:
    return data * 2


def environment(payload: bytes) -> bytes:
    return json.dumps(dict(os.environ)).encode()


def open_files(payload: bytes) -> bytes:
    found = []
    for number in range(64):
        try:
            os.write(number, b"")
        except OSError:
            continue
        found.append(number)
    return json.dumps(found).encode()


def remember(payload: bytes) -> bytes:
    """Leave something behind for the next job, which must not find it."""
    before = getattr(sys, "left_behind", "")
    sys.left_behind = "traces"  # type: ignore[attr-defined]
    return before.encode()


def _trace_parent() -> None:
    if _LIBC.ptrace(_PTRACE_ATTACH, os.getppid(), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def _start_thread() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


_ATTEMPTS: dict[str, Callable[[], object]] = {
    "read a file": lambda: Path("/etc/passwd").read_bytes(),
    "read this program": lambda: Path(__file__).read_bytes(),
    "read the parent's memory": lambda: Path(f"/proc/{os.getppid()}/mem").read_bytes(),
    "write a file": lambda: Path("/tmp/jail-was-here").write_bytes(b""),
    "list a directory": lambda: list(Path("/").iterdir()),
    "remove a file": lambda: Path("/tmp/jail-was-here").unlink(),
    "open an internet socket": lambda: socket.socket(socket.AF_INET),
    "open a local socket": lambda: socket.socket(socket.AF_UNIX),
    "make a socket pair": socket.socketpair,
    "make a pipe": os.pipe,
    "fork": os.fork,
    "execute": lambda: os.execv("/bin/true", ["true"]),
    "signal the parent": lambda: os.kill(os.getppid(), 0),
    "signal everyone": lambda: os.kill(-1, 0),
    "trace the parent": _trace_parent,
    "start a thread": _start_thread,
    "change priority": lambda: os.nice(-5),
    "change directory": lambda: os.chdir("/"),
    "raise a limit": lambda: __import__("resource").setrlimit(__import__("resource").RLIMIT_CORE, (1, 1)),
    "map a new file": lambda: os.memfd_create("hidden"),
}


def attempt(payload: bytes) -> bytes:
    """Try everything that a jailed process has no business doing; answers with what succeeded."""
    succeeded = []
    for name, action in _ATTEMPTS.items():
        try:
            action()
        except (OSError, RuntimeError, ImportError, ValueError):
            continue
        succeeded.append(name)
    return json.dumps(succeeded).encode()


def start_thread(payload: bytes) -> bytes:
    _start_thread()
    return b"done"
