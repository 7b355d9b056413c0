"""Landlock without a single rule: no file can be opened, no TCP port used, no process outside signalled."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

_CREATE_RULESET: Final = 444
_RESTRICT_SELF: Final = 446
_VERSION_FLAG: Final = 1
_FILE_RIGHTS_BY_ABI: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of file access rights that each ABI handles; later ones handle as many as the last."""
_NETWORK_RIGHTS: Final = 0b11
_SCOPES: Final = 0b11


def abi(libc: ctypes.CDLL) -> int:
    """The kernel's landlock ABI, 0 where there is none."""
    version = libc.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    return max(0, int(version))


def restrict(libc: ctypes.CDLL, version: int) -> bool:
    """Deny this process, for good, all that ABI `version` can deny. Needs no_new_privs. False if the kernel refuses."""
    if version < 1:
        return False
    file_rights = (1 << _FILE_RIGHTS_BY_ABI[min(version, max(_FILE_RIGHTS_BY_ABI))]) - 1
    attributes = struct.pack("Q", file_rights)
    if version >= 4:
        attributes += struct.pack("Q", _NETWORK_RIGHTS)
    if version >= 6:
        attributes += struct.pack("Q", _SCOPES)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    done = libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return bool(done)
