"""The search of one cycle: draft, screen, race, archive, again, until the budget ends. No database, no bus."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from random import Random

from autopoiesis.contracts.messages.policy import Kind
from autopoiesis.policy.language import policy_hash, verify
from autopoiesis.synthesizer.archive import Islands
from autopoiesis.synthesizer.budget import Budget
from autopoiesis.synthesizer.candidates import Result, Scored, preference
from autopoiesis.synthesizer.proposers.base import Draft, Proposer, Task
from autopoiesis.synthesizer.replay import FailedReplayError
from autopoiesis.synthesizer.scoring import Scorer
from autopoiesis.synthesizer.situation import Situation

log = logging.getLogger(__name__)

SLACK = 0.005
"""A candidate goes on to a dearer stage if it is at most this much below the best policy there; the generation's best always does."""
RESERVE = 0.15
"""Share of the cycle's seconds that is kept for that check."""
IID_EVERY = 5
"""Each such generation is the control arm: independent drafts from the seeds alone, never bred from."""
SEEDS = 3
"""Seeds that go on to every stage, however far below the best."""
PARENTS = 6
INSPIRATIONS = 2
PATIENCE = 200
"""Generations in a row without one draft after which nobody has anything more to say."""
FAILURES = 20
MIGRATE_EVERY = 4
"""Generations after which each island's best goes to the next island."""


@dataclass(slots=True)
class Arm:
    """Candidates of one way to search, and its best fitness after each."""

    best: list[float] = field(default_factory=list)

    def add(self, fitnesses: Iterable[float]) -> None:
        for fitness in fitnesses:
            self.best.append(max(fitness, self.best[-1] if self.best else float("-inf")))

    def after(self, candidates: int) -> float | None:
        """Best of the first so many; none where none of those came to the end."""
        found = self.best[min(candidates, len(self.best)) - 1] if self.best and candidates else float("-inf")
        return found if found > float("-inf") else None


class Evolution:
    """Searches policies that beat `incumbent` by `scorer`: `population` drafts a generation, generations on islands in turn."""

    def __init__(
        self,
        scope: str,
        kind: Kind,
        scorer: Scorer,
        budget: Budget,
        population: int,
        situation: Situation,
        *,
        seed: int,
        islands: int = 1,
        watch: Callable[[int, bool], None] | None = None,
    ) -> None:
        """`watch` is told of each generation that is over: its number, and whether it was one of the control arm."""
        self.archive = Islands(scorer.niche, islands)
        self.failures: list[str] = []
        self.tried: list[Scored] = []
        """Everything that came through a race, with its result, oldest first."""
        self.evolved, self.independent = Arm(), Arm()
        self._scope, self._kind, self._situation = scope, kind, situation
        self._scorer, self._budget, self._population = scorer, budget, population
        self._seed, self._rng = seed, Random(seed)
        self._known: set[str] = set()
        self._best_at = dict.fromkeys(range(1, scorer.stages + 1), 1.0)
        """Best fitness seen per stage; the incumbent has 1."""
        self._seeds: list[Scored] = []
        self._incumbent: Scored | None = None
        self._cut_short = False
        self._watch = watch or (lambda generation, control: None)

    @property
    def incumbent(self) -> Scored:
        assert self._incumbent is not None, "begin() first"
        return self._incumbent

    async def begin(self, incumbent: Scored, seeds: Sequence[Scored]) -> None:
        """Score the incumbent (raises FailedReplayError if that fails) and race the seeds.

        However long that takes: on a busy machine the best seed is still worth proposing.
        """
        self._incumbent = incumbent
        self._known |= {incumbent.hash, *(s.hash for s in seeds)}
        for number in range(1, self._scorer.stages + 1):
            self._incumbent = await self._scored(incumbent, number)
        self.archive.add([self.incumbent])
        others = {s.hash: s for s in seeds if s.hash != incumbent.hash}
        await self._race(list(others.values()), keep=SEEDS, island=0, in_time=False)
        self._seeds = self.archive.ranked()
        self.archive.add(self._seeds)

    def cut_short(self) -> None:
        """End the search soon; what was found so far counts."""
        self._cut_short = True

    async def run(self, proposers: Sequence[Proposer], background: Sequence[Proposer] = ()) -> None:
        """Generations from `proposers` until the budget ends; `background` ones are asked meanwhile, one draft at a time."""
        inbox: list[Draft] = []
        asking = [
            asyncio.create_task(self._ask(proposer, inbox, turn, len(background)))
            for turn, proposer in enumerate(background)
        ]
        try:
            generation, silent = 0, 0
            while self._has_time() and self._budget.candidates_left and silent < PATIENCE:
                drafts, inbox[:] = list(inbox), []
                control = generation % IID_EVERY == IID_EVERY - 1
                island = generation % self.archive.count
                task = self._task(generation, island, self._seeds if control else None)
                wanted = min(self._population, self._budget.candidates_left)
                for proposer in proposers:
                    drafts += await proposer.propose(task, max(0, wanted - len(drafts)))
                silent = 0 if drafts or not all(ask.done() for ask in asking) else silent + 1
                arm = self.independent if control else self.evolved
                if not await self._generation(drafts, arm, island, breed=not control):
                    await asyncio.sleep(0.01)  # nothing new came of it: let answers arrive
                self._watch(generation, control)
                generation += 1
                if generation % MIGRATE_EVERY == 0:
                    self.archive.migrate()
            await self._last_answers(asking, inbox)
        finally:
            for ask in asking:
                ask.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def winners(
        self, count: int, min_gain: float, *, without: AbstractSet[str] = frozenset()
    ) -> list[Scored]:
        """The best that beat the incumbent by `min_gain` also on fresh seeds, best first; no two that did the same.

        A search that overran its time still has its best one checked: else all of it was for nothing. `without` are hashes
        that do not come into question.
        """
        distinct: dict[object, Scored] = {}
        for policy in self.finished():
            if policy.hash not in without and policy.fitness >= 1 + min_gain and policy.result:
                done: object = policy.result.scores or tuple(policy.result.breakdown.items())
                distinct.setdefault(done, policy)
        checked = []
        for policy in list(distinct.values())[: 2 * count]:
            fresh = await self._measured(policy)
            if fresh is None or policy.result is None:
                continue
            mean = (fresh.fitness + policy.result.fitness) / 2
            if min(fresh.fitness, mean) >= 1 + min_gain and not fresh.faults:
                checked.append(replace(policy, result=replace(policy.result, fitness=mean)))
            if checked and self._budget.left_s <= 0:
                break
        self.archive.add(checked)
        return sorted(checked, key=preference)[:count]

    def finished(self) -> list[Scored]:
        """All but the incumbent that came to the last stage without a fault, best first."""
        last = self._scorer.stages
        done = {s.hash: s for s in self.tried if s.result and s.result.stage == last and not s.result.faults}
        done.pop(self.incumbent.hash, None)
        return sorted(done.values(), key=preference)

    def arms(self) -> dict[str, object]:
        """Evolution against as many independent drafts, for the log: none where an arm had no result."""
        count = len(self.independent.best)
        return {
            "independent_candidates": count,
            "best_of_n": self.independent.after(count),
            "evolved_after_as_many": self.evolved.after(count),
            "evolved_candidates": len(self.evolved.best),
            "evolved": self.evolved.after(len(self.evolved.best)),
        }

    async def _ask(self, proposer: Proposer, inbox: list[Draft], turn: int, turns: int) -> None:
        number = turn
        while drafts := await proposer.propose(self._task(-1 - number, number % self.archive.count, None), 1):
            inbox += drafts
            number += turns

    async def _last_answers(self, asking: Sequence[asyncio.Task[None]], inbox: list[Draft]) -> None:
        """Where candidates ran out before the time did, answers under way still count."""
        left = self._budget.left_s * (1 - RESERVE)
        if asking and left > 0 and not self._cut_short:
            await asyncio.wait(asking, timeout=left)
        if inbox:
            await self._generation(inbox, self.evolved, 0, breed=True, counted=False)

    def _has_time(self) -> bool:
        return not self._cut_short and self._budget.left_s > RESERVE * self._budget.limits.seconds

    def _task(self, generation: int, island: int, parents: Sequence[Scored] | None) -> Task:
        ranked = self.archive.ranked()
        chosen = parents or self.archive.parents(PARENTS, self._rng, island)
        return Task(
            scope=self._scope,
            kind=self._kind,
            incumbent=self.incumbent,
            parents=chosen,
            inspirations=self.archive.others(chosen, INSPIRATIONS, self._rng),
            best=ranked[0],
            tried=tuple(self.tried[-FAILURES:]),
            failures=tuple(self.failures[-FAILURES:]),
            situation=self._situation,
            seed=self._seed * 1_000_003 + generation,
        )

    async def _generation(
        self, drafts: Sequence[Draft], arm: Arm, island: int, *, breed: bool, counted: bool = True
    ) -> bool:
        """Screen and race; False where no draft was new."""
        room = self._budget.candidates_left if counted else len(drafts)
        candidates = await self._screened(drafts[:room])
        self._budget.candidates += len(candidates)
        finished = await self._race(candidates, island=island if breed else None)
        arm.add(finished.get(c.hash, float("-inf")) for c in candidates)
        return bool(candidates)

    async def _screened(self, drafts: Sequence[Draft]) -> list[Scored]:
        """Valid drafts that neither read nor behave like something known."""
        new = []
        for draft in drafts:
            report = verify(draft.source, self._kind, complete=True)
            if not report.ok:
                self._failed(f"{draft.note[:100]}: {report.text()}")
                continue
            candidate = Scored(
                policy_hash(draft.source, self._kind),
                draft.source,
                self._kind,
                draft.origin,
                draft.parents,
                draft.note,
            )
            if candidate.hash in self._known:
                continue
            self._known.add(candidate.hash)
            try:
                behaviour = await self._scorer.behaviour(candidate)
            except FailedReplayError as error:
                self._failed(f"{draft.note[:100]}: {error}")
                continue
            if behaviour in self._known:
                self._failed(f"{draft.note[:100]}: it does exactly what a policy before it did")
                continue
            self._known.add(behaviour)
            new.append(candidate)
        return new

    async def _race(
        self, field_: Sequence[Scored], *, keep: int = 1, island: int | None, in_time: bool = True
    ) -> dict[str, float]:
        """Stage by stage, those in reach of the best go on, at most half and at least `keep`; fitness of who came to the end.

        They are archived on `island`, nowhere where it is None. `in_time`: nobody comes to the end after the budget's.
        """
        running = list(field_)
        for stage in range(1, self._scorer.stages + 1):
            if not running or (in_time and self._budget.left_s <= 0):
                return {}
            tried = await asyncio.gather(*(self._try(c, stage) for c in running))
            self.failures += [why for why in tried if isinstance(why, str)]
            scored = sorted((s for s in tried if isinstance(s, Scored)), key=preference)
            within = sum(s.fitness >= self._best_at[stage] - SLACK for s in scored)
            going = (
                len(scored)
                if stage == self._scorer.stages
                else max(keep, min(within, (len(scored) + 1) // 2))
            )
            running, out = scored[:going], scored[going:]
            self.tried += running if stage == self._scorer.stages else out
            self._best_at[stage] = max([self._best_at[stage], *(s.fitness for s in running)])
        if island is not None:
            self.archive.add(running, island)
        return {s.hash: s.fitness for s in running}

    async def _try(self, policy: Scored, stage: int) -> Scored | str:
        """With its result, or why there is none: noted in the order of candidates, whichever replay ends first."""
        try:
            return await self._scored(policy, stage)
        except FailedReplayError as error:
            return f"{policy.title[:100]}: {error}"

    async def _scored(self, policy: Scored, stage: int) -> Scored:
        return replace(policy, result=await self._scorer.score(policy, self.incumbent, stage))

    async def _measured(self, policy: Scored) -> Result | None:
        """On fresh seeds; none where its replay fails."""
        try:
            return await self._scorer.fresh(policy, self.incumbent)
        except FailedReplayError as error:
            self._failed(f"{policy.title[:100]}: {error}")
            return None

    def _failed(self, why: str) -> None:
        self.failures.append(why)
        log.debug("synthesizer: %s", why)
