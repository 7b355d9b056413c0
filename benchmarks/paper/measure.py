"""Runs plan policies on traces in the jail, and prices what they decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import msgspec

from autopoiesis.policy.jail import Jail, JailError, Job, Limits
from autopoiesis.simulator.intervals import Assumptions, CostModel, PlanTrace
from autopoiesis.simulator.intervals.job import PlanJob, decided
from autopoiesis.simulator.intervals.world import Decision, Outcome, PlanRejectedError, account

MODULES = ("autopoiesis.simulator.intervals.job",)
LIMITS = Limits(wall_s=900.0, cpu_s=600.0)


class Bench:
    """A jail and the cost model that its results are priced with. What ran once is remembered."""

    def __init__(self, assumptions: Assumptions = Assumptions(), *, repeats: int = 3) -> None:  # noqa: B008
        self.cost = CostModel(assumptions)
        self.repeats = repeats
        self._jail = Jail(MODULES, workers=1, limits=LIMITS)
        self._done: dict[tuple[str, str], tuple[Decision, ...]] = {}

    def __enter__(self) -> Self:
        self._jail.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._jail.close()

    def decisions(self, source: str, trace: PlanTrace) -> tuple[Decision, ...]:
        """What a policy does on a trace. Raises PlanRejectedError."""
        key = (source, trace.name)
        if key not in self._done:
            job = PlanJob(policy=source, trace=trace, assumptions=self.cost.assumptions, repeats=self.repeats)
            try:
                answer = self._jail.run(Job(f"{MODULES[0]}:run", msgspec.msgpack.encode(job)))
            except JailError as error:
                raise PlanRejectedError(f"{type(error).__name__}: {error}") from error
            self._done[key] = decided(answer)
        return self._done[key]

    def outcome(
        self, source: str, trace: PlanTrace, *, charge: Callable[[Decision], float] | None = None
    ) -> Outcome:
        """Eq. 1, with measured scheduling time unless `charge` says otherwise. Raises PlanRejectedError."""
        return account(trace, self.decisions(source, trace), self.cost, charge=charge)
