"""Plan policies on a trace of the interval world: run in the jail, priced outside, T_incumbent / T_candidate as fitness."""

import asyncio
import hashlib
import math
from collections.abc import Sequence
from statistics import fmean

import msgspec

from autopoiesis.policy.jail import Jail, JailError, Job
from autopoiesis.simulator.intervals import Assumptions, CostModel, PlanTrace
from autopoiesis.simulator.intervals.job import PlanJob, PlanResult, decided
from autopoiesis.simulator.intervals.world import Accounting, Decision, Outcome, PlanRejectedError, account
from autopoiesis.synthesizer.candidates import Result, Scored
from autopoiesis.synthesizer.features import features
from autopoiesis.synthesizer.replay import FailedReplayError
from autopoiesis.synthesizer.situation import Situation

MODULE = "autopoiesis.simulator.intervals.job"
"""What the jail imports before it takes candidates."""
RESCHEDULES = (1, 2, 4, 8)
MOVED_SHARE = (0.0, 0.02, 0.1, 0.25)
"""Bounds of the archive's cells: calls of `schedule`, and the share of the total time that goes into moving."""
SPEEDS = 1.5
"""Ratio of scheduling times that tells two policies apart."""
LEAST_S = 0.05
"""Scheduling time below which nothing is to be won."""
PLANS = 10
"""Of a run, that are told to proposers."""


class PlanRuns:
    """Runs plan policies on one trace; what ran once is remembered.

    `recorded` are results of earlier runs by policy hash. Without a jail only those are known: a replay.
    """

    def __init__(
        self,
        trace: PlanTrace,
        assumptions: Assumptions,
        jail: Jail | None,
        *,
        repeats: int = 3,
        recorded: dict[str, PlanResult] | None = None,
    ) -> None:
        self.trace, self.assumptions = trace, assumptions
        self.results = recorded if recorded is not None else {}
        self._jail, self._repeats = jail, repeats

    async def decisions(self, policy: Scored) -> tuple[Decision, ...]:
        """What a policy does on the trace, scheduling seconds as measured. Raises FailedReplayError."""
        if policy.hash not in self.results:
            self.results[policy.hash] = await self._run(policy)
        found = self.results[policy.hash]
        if found.rejected:
            raise FailedReplayError(found.rejected)
        return found.decisions

    async def _run(self, policy: Scored) -> PlanResult:
        if self._jail is None:
            raise FailedReplayError("this policy's run was not recorded")
        job = PlanJob(
            policy=policy.source, trace=self.trace, assumptions=self.assumptions, repeats=self._repeats
        )
        try:
            answer = await asyncio.wrap_future(
                self._jail.submit(Job(f"{MODULE}:run", msgspec.msgpack.encode(job)))
            )
            return PlanResult(decisions=decided(answer))
        except JailError as error:
            last = error.detail.strip().splitlines()[-1:]
            return PlanResult(rejected=f"{type(error).__name__}: {''.join(last)}")
        except PlanRejectedError as error:
            return PlanResult(rejected=str(error))


class PlanScorer:
    """Total time on a trace (Eq. 1 of arXiv 2604.07144), and on others that proposers do not see. One stage."""

    stages = 1

    def __init__(
        self,
        runs: PlanRuns,
        *,
        least_s: float = 0.0,
        extra_s: float = 0.0,
        accounting: Accounting = "additive",
        optima: Sequence[float] = (),
        by_speed: bool = False,
        unseen: Sequence[PlanRuns] = (),
    ) -> None:
        """`least_s` is charged for a call of `schedule` where it took less, `extra_s` on top of what it took, in seconds.

        `optima`, step by step the least serving time that any plan can reach, are told to proposers where they are known.
        `by_speed`: policies that decide the same behave differently where one takes far less time to. The ratio on `unseen` traces
        is half of the fitness: a policy that has learnt its own trace by heart loses there.
        """
        self._runs, self._least_s, self._extra_s, self._accounting = runs, least_s, extra_s, accounting
        self._optima, self._by_speed, self._unseen = optima, by_speed, unseen
        self._cost = CostModel(runs.assumptions)

    async def outcome(self, policy: Scored, runs: PlanRuns | None = None) -> Outcome:
        """On the scorer's own trace unless `runs` are given. Raises FailedReplayError."""
        on = runs or self._runs
        found = await on.decisions(policy)
        try:
            return account(on.trace, found, self._cost, charge=self._charge, accounting=self._accounting)
        except PlanRejectedError as error:
            raise FailedReplayError(str(error)) from error

    async def behaviour(self, policy: Scored) -> str:
        """Hash of the plans in force, step by step, and of how long it took to find them. Raises FailedReplayError."""
        decisions = [d for runs in (self._runs, *self._unseen) for d in await self._decided(policy, runs)]
        took = sum(d.scheduling_s for d in decisions)
        speed = round(math.log(max(took, LEAST_S), SPEEDS)) if self._by_speed else 0
        done = [speed, *((d.rescheduled, d.plan) for d in decisions)]
        return hashlib.sha256(msgspec.msgpack.encode(done)).hexdigest()

    async def score(self, policy: Scored, incumbent: Scored, stage: int) -> Result:
        ours, theirs = await self.outcome(policy), await self.outcome(incumbent)
        fitness = theirs.total_s / ours.total_s
        parts = {
            "N": float(ours.reschedules),
            "stale_s": ours.stale_s,
            "reconfigure_s": ours.reconfigure_s,
            "serve_s": ours.serve_s,
            "total_s": ours.total_s,
            "tokens_per_s": ours.tokens_per_s,
        }
        if self._unseen:
            parts |= {"seen_ratio": fitness, "unseen_ratio": await self._elsewhere(policy, incumbent)}
            fitness = (parts["seen_ratio"] + parts["unseen_ratio"]) / 2
        plans = plans_of(self._runs.trace, await self._runs.decisions(policy), self._cost)
        return Result(fitness, (), parts, stage=stage, artifact=table(ours, self._optima) + plans)

    async def _elsewhere(self, policy: Scored, incumbent: Scored) -> float:
        """Mean ratio on the unseen traces."""
        pairs = [
            (await self.outcome(policy, runs), await self.outcome(incumbent, runs)) for runs in self._unseen
        ]
        return fmean(theirs.total_s / ours.total_s for ours, theirs in pairs)

    async def _decided(self, policy: Scored, runs: PlanRuns) -> tuple[Decision, ...]:
        try:
            return await runs.decisions(policy)
        except FailedReplayError as error:
            where = "" if runs is self._runs else "on an unseen trace: "
            raise FailedReplayError(f"{where}{error}") from error

    async def fresh(self, policy: Scored, incumbent: Scored) -> Result:
        """The same: nothing in this world is drawn."""
        return await self.score(policy, incumbent, self.stages)

    def niche(self, policy: Scored) -> str:
        """By what the policy did: how often it rescheduled, how much it moved; and by its size."""
        parts = policy.result.breakdown if policy.result else {}
        calls = sum(parts.get("N", 0.0) > bound for bound in RESCHEDULES)
        share = parts.get("reconfigure_s", 0.0) / max(parts.get("total_s", 0.0), 1e-9)
        moved = sum(share > bound for bound in MOVED_SHARE)
        return f"calls{calls}/moved{moved}/{features(policy.source).complexity}"

    def _charge(self, decision: Decision) -> float:
        if not decision.rescheduled:
            return decision.scheduling_s
        return max(decision.scheduling_s + self._extra_s, self._least_s)


def table(outcome: Outcome, optima: Sequence[float] = ()) -> str:
    """Where the time went, step by step."""
    head = "step  rescheduled  stale s  reconfig s  serve s"
    rows = [
        f"{number:4d}  {'yes' if i.rescheduled else 'no':>11}  {i.stale_s:7.3f}  {i.reconfigure_s:10.2f}  {i.serve_s:7.2f}"
        for number, i in enumerate(outcome.intervals)
    ]
    if optima:
        head += "  least serve s of any plan"
        rows = [f"{row}  {least:25.2f}" for row, least in zip(rows, optima, strict=True)]
    return "\n".join([head, *rows, ""])


def plans_of(trace: PlanTrace, decisions: Sequence[Decision], cost: CostModel) -> str:
    """Every new plan, and what each model took under it: who all wait for."""
    lines, old = [], None
    for number, decision in enumerate(decisions):
        if decision.plan == old:
            continue
        gpus = trace.gpus(number)
        old = decision.plan
        parts = []
        for model in trace.demands(number):
            seconds = cost.serve_time(model, gpus, decision.plan)
            groups = (
                f"{e.count}x{e.gpu}/tp{e.tp}"
                + (f"/batch {e.batch}" if e.batch else "")
                + (f"/{e.role}" if e.role != "mixed" else "")
                for e in decision.plan
                if e.model == model.index and e.count
            )
            parts.append(f"{model.name} {seconds:.2f} s: {' + '.join(groups)}")
        lines.append(f"plan from step {number}: {'; '.join(parts)}")
    return "\n".join(lines[:PLANS])


def situation_of_trace(trace: PlanTrace) -> Situation:
    """The snapshot in figures: loads and GPUs, step by step."""
    return Situation(workload=_loads(trace), fleet=_fleet(trace))


def _loads(trace: PlanTrace) -> Sequence[str]:
    lines = ["per step: model concurrency x (prompt + output tokens)"]
    for number, step in enumerate(trace.steps):
        loads = (
            f"{name} {load.concurrency} x ({load.prompt_tokens} + {load.output_tokens})"
            for name, load in step.loads.items()
        )
        lines.append(f"step {number}: {', '.join(loads)}")
    return lines


def _fleet(trace: PlanTrace) -> Sequence[str]:
    lines = [
        f"{pool.type}: {pool.memory_bytes / 1e9:.0f} GB, {pool.peak_flops / 1e12:.0f} TFLOP/s, "
        f"{pool.bandwidth / 1e12:.2f} TB/s, PCIe {pool.pcie_bandwidth / 1e9:.0f} GB/s, {pool.per_node} per machine"
        for pool in trace.pools
    ]
    counts = [", ".join(f"{n} {gpu}" for gpu, n in step.gpus.items()) for step in trace.steps]
    if len(set(counts)) == 1:
        return [*lines, f"at every step {counts[0]}"]
    return [*lines, *(f"step {number}: {text}" for number, text in enumerate(counts))]
