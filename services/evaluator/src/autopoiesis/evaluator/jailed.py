"""Replays in the jail, results audited outside."""

import asyncio
from importlib.metadata import version
from typing import Final

import msgspec

from autopoiesis.evaluator.case import Arm
from autopoiesis.evaluator.ledger import audited
from autopoiesis.evaluator.replays import Blocks, FailedReplayError
from autopoiesis.evaluator.scoring import Replay
from autopoiesis.policy.jail import Jail, JailError, Job
from autopoiesis.simulator.job import BadResultError, ReplayJob, replayed

SIMULATOR: Final = version("autopoiesis-simulator")
"""Scores of different versions are never compared."""
MODULES: Final = (
    "autopoiesis.evaluator.properties",
    "autopoiesis.evaluator.plan_properties",
    "autopoiesis.simulator.job",
)
"""What the jail imports before it takes candidates."""


class JailedSimulation:
    """`Simulate`, as a job of the jail."""

    def __init__(self, jail: Jail) -> None:
        self._jail = jail

    async def __call__(self, arm: Arm, blocks: Blocks, *, load: float, seed: int) -> Replay:
        router, planner = (blocks.beside, arm) if blocks.beside else (arm, None)
        job = ReplayJob(
            policy=router.source,
            plan=planner.source if planner else "",
            window=blocks.packed,
            lead=blocks.lead,
            loads=(load,),
            seeds=(seed,),
        )
        try:
            answer = await asyncio.wrap_future(
                self._jail.submit(Job("autopoiesis.simulator.job:run", msgspec.msgpack.encode(job)))
            )
            result = replayed(answer, job)
            ran = result.plan if planner else result.policy
            if ran != arm.hash:
                raise BadResultError(f"it replayed {ran[:12]} instead of {arm.hash[:12]}")
            return audited(result.cells[0], blocks.window, planned=planner is not None)
        except JailError as error:
            last = error.detail.strip().splitlines()[-1:]
            raise FailedReplayError(arm, f"{type(error).__name__}: {''.join(last)}") from error
        except BadResultError as error:
            raise FailedReplayError(arm, f"its result cannot be: {error}") from error
