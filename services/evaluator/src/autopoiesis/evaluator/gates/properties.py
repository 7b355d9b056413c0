import asyncio
import json

import msgspec

from autopoiesis.evaluator.case import Case
from autopoiesis.evaluator.plan_properties import Question, place_of
from autopoiesis.evaluator.replays import Replays
from autopoiesis.policy.jail import Jail, JailError, Job


class Properties:
    """It answers soundly in states that no trace may hold (see `autopoiesis.evaluator.properties`, for plans `plan_properties`)."""

    name = "properties"

    def __init__(self, jail: Jail, replays: Replays) -> None:
        self._jail = jail
        self._replays = replays

    async def __call__(self, case: Case) -> str | None:
        try:
            broken = await asyncio.wrap_future(self._jail.submit(await self._job(case)))
        except JailError as error:
            last = error.detail.strip().splitlines()[-1:]
            return f"checking it ended in {type(error).__name__}: {''.join(last)}"
        return broken.decode() or None

    async def _job(self, case: Case) -> Job:
        source = case.candidate.source
        if case.beside is None:
            payload = json.dumps({"source": source, "seed": case.seed}).encode()
            return Job("autopoiesis.evaluator.properties:run", payload)
        blocks = await self._replays.open_blocks(case.window, case.beside)
        asked = Question(source=source, seed=case.seed, place=place_of(blocks.window.info.planned))
        return Job("autopoiesis.evaluator.plan_properties:run", msgspec.json.encode(asked))
