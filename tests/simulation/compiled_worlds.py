"""Prints a digest of everything that many worlds report, for comparison between interpreters: no test by itself."""
# ruff: noqa: T201 - a program

import dataclasses
import hashlib
import sys

import numpy as np

from autopoiesis.dispatch import core
from autopoiesis.policy import library
from autopoiesis.simulator.api import SLO, Clients, Fleet, Run, WorldSettings, evaluate
from autopoiesis.simulator.fleet import Change
from autopoiesis.simulator.workload import generate

MIX = (generate.INTERACTIVE, generate.BATCH)
PAUSES = WorldSettings(clients=Clients(timeout_s=2.0, retries=1), drain_s=120.0)
NOISE = WorldSettings(routers=2, step_noise=0.1, drain_s=120.0)
WORLDS = (
    ("2xH100 + 2xL4", generate.poisson(20, 8, mix=MIX, seed=1), PAUSES),
    ("1xH100:prefill + 2xH100:decode", generate.sessions(2.0, 8, think_s=1.0, seed=2), NOISE),
)


def digest(run: Run) -> str:
    """Of every column, bit by bit, and of what each replica did."""
    found = hashlib.blake2b(digest_size=8)
    for field in dataclasses.fields(run):
        value = getattr(run, field.name)
        found.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return found.hexdigest()


def main() -> None:
    print("interpreted" if core.__file__.endswith(".py") else "compiled", file=sys.stderr)
    for text, trace, settings in WORLDS:
        fleet = Fleet.parse(text)
        last = fleet.replicas[-1].name
        lost = [Change(at=4.0, kind="fail", replica=last, takes_s=0.4)]
        for policy in library.names("dispatch", every=True):
            report = evaluate(
                policy,
                trace,
                fleet,
                SLO(ttft_s=1.0, tpot_s=0.05),
                (1.2,),
                load_unit="capacity",
                settings=settings,
                changes=lost,
            )
            print(policy, text, len(report.runs[0]), digest(report.runs[0]))


if __name__ == "__main__":
    main()
