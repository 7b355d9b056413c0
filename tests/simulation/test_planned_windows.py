"""Plan policies on a recorded window: the planner's rules, GPUs that come and go, and moves at the price that was seen."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest

from autopoiesis.contracts.messages.fleet import (
    ModelBounds,
    ModelLoad,
    PlannedReplicas,
    PlanObserved,
    PlanRules,
)
from autopoiesis.policy import library
from autopoiesis.simulator.api import Run, evaluate_snapshot
from autopoiesis.simulator.fleet import Fleet
from autopoiesis.simulator.job import ReplayJob, replayed, run
from autopoiesis.simulator.requests.engines import Engine
from autopoiesis.simulator.requests.outcome import FAILED
from autopoiesis.simulator.requests.recorded import UnplannedError
from autopoiesis.simulator.workload.generate import INTERACTIVE, poisson
from autopoiesis.simulator.workload.window import SnapshotInfo, Window, pack

MODEL = "llama-3.1-8b"
"""As its fleet calls it, not as the simulator does."""
START, SECONDS, STEP = 500.0, 120.0, 5.0
START_S = 12.0
RULES = PlanRules(step_s=STEP, window_s=20.0, cooldown_s=20.0, bounds={MODEL: ModelBounds(max_replicas=3)})
ALL = """API = 1
def should_reschedule(ctx):
    return ctx.plan is None or sum(entry.count for entry in ctx.plan) != ctx.gpus[0].count
def schedule(ctx):
    return [Replicas(0, "L40S", 1, ctx.gpus[0].count)]
"""
ALTERNATING = """API = 1
def should_reschedule(ctx):
    return True
def schedule(ctx):
    return [Replicas(0, "L40S", 1, 1 + ctx.step % 2)]
"""
GREEDY = ALL.replace("ctx.gpus[0].count)]", "4)]")


def planned(
    counts: Sequence[int], *, start: float = START, rules: PlanRules = RULES
) -> tuple[PlanObserved, ...]:
    """Monitoring steps that saw so many GPUs, equally long each."""
    steps = int(SECONDS / STEP)
    return tuple(
        PlanObserved(
            scope="s",
            step=n,
            at_unix_s=start + n * STEP,
            policy="",
            epoch=0,
            gpus={"L40S": counts[n * len(counts) // steps]},
            demand={MODEL: ModelLoad(concurrency=10)},
            plan=(PlannedReplicas(model=MODEL, gpu="L40S", tp=1, count=1),),
            rules=rules,
        )
        for n in range(steps)
    )


def window(counts: Sequence[int], *, start: float = START, rate: float = 8.0, seed: int = 1) -> Window:
    (spec,) = Fleet.parse("1xL40S", MODEL).replicas
    beat = msgspec.structs.replace(Engine(spec, 0.0, None).heartbeat(0.0), model=MODEL)
    info = SnapshotInfo(
        scope="s",
        start_unix_s=start,
        end_unix_s=start + SECONDS,
        fleet=(beat,),
        planned=planned(counts, start=start),
        start_s=START_S,
    )
    return Window(info, poisson(rate, SECONDS, mix=(INTERACTIVE,), seed=seed))


def of(plan: str, place: Window, lead: Window | None = None) -> Run:
    return evaluate_snapshot("least_requests", place, plan=plan, lead=lead).runs[0]


def test_a_plan_that_uses_the_gpus_serves_more_and_pays_for_its_moves() -> None:
    place = window([3])
    kept, moved = of("plan_keep", place), of(ALL, place)
    assert kept.plan is not None
    assert moved.plan is not None
    assert (kept.plan.moves, kept.plan.reschedules) == ([], 0)
    assert [move.counts for move in moved.plan.moves] == [{("L40S", 1, "mixed"): 3}]
    assert moved.attainment() > kept.attainment() + 0.2
    assert moved.plan.moves[0].at == pytest.approx(STEP, abs=0.5)
    sent = moved.arrival_s + moved.queue_wait_s
    assert sent[moved.replica > 0].min() >= moved.plan.moves[0].at + START_S
    assert moved.summary()["loading_gpu_s"] == pytest.approx(2 * START_S)


def test_between_changes_a_cooldown_is_kept() -> None:
    found = of(ALTERNATING, window([3])).plan
    assert found is not None
    times = [move.at for move in found.moves]
    assert len(times) > 2
    assert min(b - a for a, b in pairwise(times)) >= RULES.cooldown_s


def test_gpus_that_go_take_their_replicas_and_those_that_come_are_seen_despite_the_cooldown() -> None:
    found = of(ALL, window([1, 3, 2]))
    assert found.plan is not None
    assert [sum(move.counts.values()) for move in found.plan.moves] == [3]
    went = found.replicas[2].present_s
    assert went == pytest.approx(SECONDS / 3, abs=2 * STEP)
    lost = found.outcome == FAILED
    assert 0 < lost.sum() < 60
    assert (found.replica[lost] == 2).all()


def test_a_plan_outside_the_bounds_is_a_fault() -> None:
    found = of(GREEDY, window([4]))
    assert found.plan is not None
    assert "4 replicas" in next(iter(found.plan.faults))


def test_with_a_lead_every_policy_starts_from_the_fleet_of_the_lead() -> None:
    lead, place = window([3]), window([3], start=START + SECONDS, seed=2)
    found = of(ALL, place, lead)
    assert found.plan is not None
    assert [move.at < 0 for move in found.plan.moves] == [True]
    early = found.scored & (found.arrival_s < STEP)
    assert (found.replica[early] > 0).any()


def test_the_jailed_job_tells_what_the_plan_policy_did() -> None:
    source = library.source("plan_greedy")
    job = ReplayJob(policy="least_requests", plan=source, window=pack(window([3])))
    result = replayed(run(msgspec.msgpack.encode(job)), job)
    (cell,) = result.cells
    assert cell.planned is not None
    assert cell.planned.steps >= 1
    assert cell.planned.moves
    assert cell.planned.faults == {}
    assert cell.planned.loading_gpu_s > 0
    assert result.plan == library.load("plan_greedy").hash


@pytest.mark.parametrize(
    ("steps", "what"),
    [
        ((), "no planner was at work"),
        (
            tuple(
                msgspec.structs.replace(step, demand={MODEL: ModelLoad(), "Qwen3-8B": ModelLoad()})
                for step in planned([3])
            ),
            "plans 2 models",
        ),
    ],
)
def test_windows_on_which_no_plan_policy_can_be_replayed(steps: tuple[PlanObserved, ...], what: str) -> None:
    place = window([3])
    bare = Window(msgspec.structs.replace(place.info, planned=steps), place.trace)
    with pytest.raises(UnplannedError, match=what):
        of("plan_keep", bare)
