"""How a jailed job can fail."""

from __future__ import annotations

import signal


class JailError(Exception):
    """A job did not give a result. `detail` is the traceback text from inside, or what went wrong around it."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class JailTimeout(JailError):  # noqa: N818
    """The job was stopped at its wall-clock or CPU limit."""


class JailMemory(JailError):  # noqa: N818
    """The job asked for more memory than it may have."""


class JailCrash(JailError):  # noqa: N818
    """The job's process ended by a signal. `signal` is its number, 0 if the zygote itself went away."""

    def __init__(self, number: int, detail: str = "") -> None:
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        super().__init__(detail or f"the jailed process was ended by {name}")
        self.signal = number
