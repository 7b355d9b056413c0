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
MODULES: Final = ("autopoiesis.evaluator.properties", "autopoiesis.simulator.job")
"""What the jail imports before it takes candidates."""


class JailedSimulation:
    """`Simulate`, as a job of the jail."""

    def __init__(self, jail: Jail) -> None:
        self._jail = jail

    async def __call__(self, arm: Arm, blocks: Blocks, *, load: float, seed: int) -> Replay:
        job = ReplayJob(
            policy=arm.source, window=blocks.packed, lead=blocks.lead, loads=(load,), seeds=(seed,)
        )
        try:
            answer = await asyncio.wrap_future(
                self._jail.submit(Job("autopoiesis.simulator.job:run", msgspec.msgpack.encode(job)))
            )
            result = replayed(answer, job)
            if result.policy != arm.hash:
                raise BadResultError(f"it replayed {result.policy[:12]} instead of {arm.hash[:12]}")
            return audited(result.cells[0], blocks.window)
        except JailError as error:
            last = error.detail.strip().splitlines()[-1:]
            raise FailedReplayError(arm, f"{type(error).__name__}: {''.join(last)}") from error
        except BadResultError as error:
            raise FailedReplayError(arm, f"its result cannot be: {error}") from error
