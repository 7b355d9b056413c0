import asyncio
import json
from typing import Final

from autopoiesis.contracts.messages.policy import Kind
from autopoiesis.evaluator.case import Case
from autopoiesis.policy.jail import Jail, JailError, Job

_MODULES: Final[dict[Kind, str]] = {"dispatch": "properties", "plan": "plan_properties"}


class Properties:
    """It answers soundly in states that no trace may hold (see `autopoiesis.evaluator.properties`, for plans `plan_properties`)."""

    name = "properties"

    def __init__(self, jail: Jail) -> None:
        self._jail = jail

    async def __call__(self, case: Case) -> str | None:
        payload = json.dumps({"source": case.candidate.source, "seed": case.seed}).encode()
        job = Job(f"autopoiesis.evaluator.{_MODULES[case.proposal.kind]}:run", payload)
        try:
            broken = await asyncio.wrap_future(self._jail.submit(job))
        except JailError as error:
            last = error.detail.strip().splitlines()[-1:]
            return f"checking it ended in {type(error).__name__}: {''.join(last)}"
        return broken.decode() or None
