"""What the search asks of whoever scores candidates, and the scorer of dispatch policies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autopoiesis.synthesizer.candidates import Result, Scored
from autopoiesis.synthesizer.features import features
from autopoiesis.synthesizer.fitness import Bounds, Objective, goodput, judge
from autopoiesis.synthesizer.replay import Pass, Place

FRESH_SEEDS = (101,)
"""For the last check of the best: what was chosen on some seeds is measured on others."""

MOVES = (0, 1, 3, 6, 12)
"""Bounds of the archive's cells of plan policies."""


class Scorer(Protocol):
    """Scores candidates relative to an incumbent, whose fitness is 1. Failures are FailedReplayError."""

    stages: int
    """How many there are, each dearer than the last; only results of the last one are final."""

    async def behaviour(self, policy: Scored) -> str:
        """Hash of what it does, the same for policies that do the same."""

    async def score(self, policy: Scored, incumbent: Scored, stage: int) -> Result:
        """On what `stage`, from 1, looks at."""

    async def fresh(self, policy: Scored, incumbent: Scored) -> Result:
        """Measured once more, on something it was not chosen by."""

    def niche(self, policy: Scored) -> str:
        """Name of its cell in the archive."""


class Runs(Protocol):
    """Replays of dispatch policies: `replay.Replays`."""

    async def run(
        self, policy: Scored, place: Place, loads: Sequence[float], seeds: Sequence[int]
    ) -> list[Pass]: ...

    async def behaviour(self, policy: Scored) -> str: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How candidates are raced."""

    loads: tuple[float, ...]
    bounds: Bounds
    seeds: tuple[int, ...] = (0,)
    stretch: bool = True
    """Begin with a busy stretch; no good for plan policies, whose moves need a whole window to pay."""
    objective: Objective = goodput

    @property
    def stages(self) -> tuple[tuple[Place, tuple[float, ...], tuple[int, ...]], ...]:
        """(place, loads, seeds), each stage dearer than the last."""
        middle = self.loads[len(self.loads) // 2]
        whole: tuple[tuple[Place, tuple[float, ...], tuple[int, ...]], ...] = (
            ("window", (middle,), self.seeds[:1]),
            ("window", self.loads, self.seeds),
        )
        return (("stretch", (max(self.loads),), self.seeds[:1]), *whole) if self.stretch else whole


class WindowScorer:
    """Goodput on a recorded window: first a busy stretch, then one load, then every load."""

    def __init__(self, replays: Runs, plan: Plan) -> None:
        self._replays, self._plan = replays, plan
        self.stages = len(plan.stages)

    async def behaviour(self, policy: Scored) -> str:
        return await self._replays.behaviour(policy)

    async def score(self, policy: Scored, incumbent: Scored, stage: int) -> Result:
        return await self._judged(policy, incumbent, *self._plan.stages[stage - 1], stage)

    async def fresh(self, policy: Scored, incumbent: Scored) -> Result:
        return await self._judged(policy, incumbent, "window", self._plan.loads, FRESH_SEEDS, self.stages)

    def niche(self, policy: Scored) -> str:
        """By its text; of plan policies also by how often they moved."""
        cell = features(policy.source).cell
        moves = (policy.result.breakdown if policy.result else {}).get("moves")
        return cell if moves is None else f"{cell}/moves{sum(moves > bound for bound in MOVES)}"

    async def _judged(
        self,
        policy: Scored,
        incumbent: Scored,
        place: Place,
        loads: Sequence[float],
        seeds: Sequence[int],
        stage: int,
    ) -> Result:
        theirs = await self._replays.run(incumbent, place, loads, seeds)
        ours = await self._replays.run(policy, place, loads, seeds)
        return judge(ours, theirs, self._plan.bounds, stage, self._plan.objective)
