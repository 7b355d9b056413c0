"""Runs the properties of `test_policy_fuzz` on fresh programs for a while: `python tests/unit/policy/fuzz.py --minutes 10`.

Prints how many programs were compiled and run (one property compiles each twice); ends with the failing program if one is found.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from typing import Any

import hypothesis
import test_policy_fuzz as fuzz

from autopoiesis.policy.language import compile_policy

TESTS = [
    value for name, value in vars(fuzz).items() if name.startswith("test_") and hasattr(value, "hypothesis")
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; each round has the next one")
    arguments = parser.parse_args()
    programs = itertools.count()

    def counting(*args: Any, **kwargs: Any) -> Any:
        next(programs)
        return compile_policy(*args, **kwargs)

    setattr(fuzz, "compile_policy", counting)  # noqa: B010  it is not that module's to export
    until = time.monotonic() + 60 * arguments.minutes
    rounds = 0
    for number in itertools.count(arguments.seed):
        for test in TESTS:
            hypothesis.seed(number)(test)()
        rounds += 1
        if time.monotonic() >= until:
            break
    sys.stdout.write(
        f"{next(programs):,} programs compiled and run in {rounds} rounds of {len(TESTS)} properties, from seed {arguments.seed}\n"
    )


if __name__ == "__main__":
    main()
