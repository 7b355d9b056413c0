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
    """Processor seconds per evaluation in the jail (all processes together) and in this process, in turn: a busy machine slows
    both alike.
    """
    plain = jailed = 0.0
    job = Job(f"{MODULE}:run", PAYLOAD)
    with Jail([MODULE], workers=1) as jail:
        plan_step.run(PAYLOAD)
        jail.run(job)
        zygote = _children_of(os.getpid())[-1]
        before = _processor_s(zygote)
        for _ in range(repeats):
            started = time.process_time()
            plan_step.run(PAYLOAD)
            between = time.process_time()
            jail.run(job)
            plain += between - started
            jailed += time.process_time() - between
        jailed += _processor_s(zygote) - before
    added = (jailed - plain) / repeats
    return {
        "jailed_s": jailed / repeats,
        "plain_s": plain / repeats,
        "added_s": added,
        "ratio": jailed / plain,
    }


def _processor_s(pid: int) -> float:
    """Of a process and the children it has waited for; ticks of 10 ms, hence many repeats."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
