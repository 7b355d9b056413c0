"""Decides with the sources on standard input (a JSON list) and prints what came of each: run under several PYTHONHASHSEEDs."""

from __future__ import annotations

import json
import sys
from typing import Any

from golden import state

from autopoiesis.policy.language import PolicyError, compile_policy

STATES = 4


def outcomes(source: str) -> list[Any]:
    """Decision or fault, and fuel, in each of a few states."""
    policy = compile_policy(source, "dispatch")
    found = []
    for seed in range(STATES):
        try:
            outcome = repr(policy.route(*state(seed)))
        except PolicyError as error:
            outcome = f"{type(error).__name__}: {error}"
        found.append((outcome, policy.fuel_used))
    return [policy.hash, found]


if __name__ == "__main__":
    sys.stdout.write(json.dumps([outcomes(source) for source in json.load(sys.stdin)]))
