"""A seccomp filter that leaves a computing Python process what it needs and nothing else.

An allow-list by system call number: memory, clocks, its own open files, locks, exit. Everything else fails with EPERM:
opening files, sockets, new processes, signals to others, tracing. Numbers are those of the kernel's x86_64 table and of
its generic table, which aarch64 uses.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from typing import Final, NamedTuple

_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2
_RET_ALLOW: Final = 0x7FFF0000
_RET_ERRNO: Final = 0x00050000
_RET_KILL_PROCESS: Final = 0x80000000
_LOAD_WORD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_GREATER_EQUAL: Final = 0x35
_JUMP_SET: Final = 0x45
_RETURN: Final = 0x06
_OFFSET_NUMBER: Final = 0
_OFFSET_ARCH: Final = 4
_OFFSET_FIRST_ARGUMENT: Final = 16
_CLONE_THREAD: Final = 0x10000
_X32_BIT: Final = 0x40000000


class _Machine(NamedTuple):
    audit_arch: int
    allowed: tuple[int, ...]
    clone: int
    clone3: int


# in the order of the tables: read write close fstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask
# rt_sigreturn pread64 pwrite64 readv writev sched_yield mremap madvise nanosleep getpid exit uname ftruncate
# gettimeofday getrusage times getuid getgid geteuid getegid sigaltstack gettid futex sched_getaffinity clock_gettime
# clock_getres clock_nanosleep exit_group set_robust_list getrandom membarrier rseq sysinfo getrlimit
_X86_64: Final = _Machine(
    audit_arch=0xC000003E,
    allowed=(
        0, 1, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 24, 25, 28, 35, 39, 60, 63, 77, 96, 98, 100, 102,
        104, 107, 108, 131, 186, 202, 204, 228, 229, 230, 231, 273, 318, 324, 334, 99, 97,
    ),
    clone=56,
    clone3=435,
)  # fmt: skip
_AARCH64: Final = _Machine(
    audit_arch=0xC00000B7,
    allowed=(
        63, 64, 57, 80, 73, 62, 222, 226, 215, 214, 134, 135, 139, 67, 68, 65, 66, 124, 216, 233, 101, 172, 93, 160, 46,
        169, 165, 153, 174, 176, 175, 177, 132, 178, 98, 123, 113, 114, 115, 94, 99, 278, 283, 293, 179, 163,
    ),
    clone=220,
    clone3=435,
)  # fmt: skip
_MACHINES: Final = {"x86_64": _X86_64, "aarch64": _AARCH64}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def supported() -> bool:
    """Whether this machine's system call numbers are known here."""
    return platform.system() == "Linux" and platform.machine() in _MACHINES


def program(*, threads: bool) -> bytes:
    """The filter as BPF instructions for this machine."""
    machine = _MACHINES[platform.machine()]
    code = [
        (_LOAD_WORD, 0, 0, _OFFSET_ARCH),
        (_JUMP_EQUAL, 1, 0, machine.audit_arch),
        (_RETURN, 0, 0, _RET_KILL_PROCESS),
        (_LOAD_WORD, 0, 0, _OFFSET_NUMBER),
        (_JUMP_GREATER_EQUAL, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _RET_ERRNO | errno.EPERM),
    ]
    for number in machine.allowed:
        code += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _RET_ALLOW)]
    if threads:
        # clone3 hides its flags in memory; told that it does not exist, the C library falls back to clone
        code += [
            (_JUMP_EQUAL, 0, 1, machine.clone3),
            (_RETURN, 0, 0, _RET_ERRNO | errno.ENOSYS),
            (_JUMP_EQUAL, 0, 3, machine.clone),
            (_LOAD_WORD, 0, 0, _OFFSET_FIRST_ARGUMENT),
            (_JUMP_SET, 0, 1, _CLONE_THREAD),
            (_RETURN, 0, 0, _RET_ALLOW),
        ]
    code.append((_RETURN, 0, 0, _RET_ERRNO | errno.EPERM))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def install(libc: ctypes.CDLL, bpf: bytes) -> bool:
    """Put this process, for good, behind the filter. Needs no_new_privs. False if the kernel refuses."""
    buffer = ctypes.create_string_buffer(bpf, len(bpf))
    described = _Program(len(bpf) // 8, ctypes.cast(buffer, ctypes.c_void_p).value)
    return bool(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(described), 0, 0) == 0)
