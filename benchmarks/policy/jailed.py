"""What the jail adds to an evaluation: fork, confinement, copied pages, the way of job and result."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Final

from autopoiesis.policy import library
from autopoiesis.policy.examples import EXAMPLES
from autopoiesis.policy.jail import Jail, Job
from autopoiesis.simulator import plan_step

MODULE: Final = "autopoiesis.simulator.plan_step"
PAYLOAD: Final = json.dumps({"policy": library.source("plan_greedy"), "state": EXAMPLES["plan"]}).encode()
"""A plan policy compiled and run on the example state, with the cost model."""


def overhead(repeats: int) -> dict[str, float]:
    """Processor seconds per evaluation in the jail (all processes together) and in this process."""
    plan_step.run(PAYLOAD)
    started = time.process_time()
    for _ in range(repeats):
        plan_step.run(PAYLOAD)
    plain = (time.process_time() - started) / repeats
    with Jail([MODULE], workers=1) as jail:
        jail.run(Job(f"{MODULE}:run", PAYLOAD))
        zygote = _children_of(os.getpid())[-1]
        started = time.process_time() + _processor_s(zygote)
        for _ in range(repeats):
            jail.run(Job(f"{MODULE}:run", PAYLOAD))
        jailed = (time.process_time() + _processor_s(zygote) - started) / repeats
    return {"jailed_s": jailed, "plain_s": plain, "added_s": jailed - plain, "ratio": jailed / plain}


def _processor_s(pid: int) -> float:
    """Of a process and the children it has waited for; ticks of 10 ms, hence many repeats."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
