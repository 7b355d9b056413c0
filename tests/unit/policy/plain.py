"""A policy as plain Python, unmetered: what the metered one must agree with."""

from __future__ import annotations

import math
import warnings
from typing import Any

from autopoiesis.policy.api import HOLD, REJECT, Assign, Replicas


def left_sum(items: Any, start: Any = 0) -> Any:
    """`sum` as the language defines it: from left to right, for numbers."""
    total = start
    for item in items:
        total = total + item
    return total


def plain(source: str) -> dict[str, Any]:
    """The globals of `source`, executed as it stands."""
    names: dict[str, Any] = {
        "Assign": Assign,
        "HOLD": HOLD,
        "REJECT": REJECT,
        "Replicas": Replicas,
        "math": math,
        "sum": left_sum,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = compile(source, "<plain>", "exec")
    exec(code, names)
    return names
