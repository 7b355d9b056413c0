"""Archive, budget, fitness, prompts and the search itself, without a simulator."""

import itertools
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.contracts.messages.policy import Score
from autopoiesis.policy import library
from autopoiesis.policy.language import policy_hash
from autopoiesis.synthesizer import prompt
from autopoiesis.synthesizer.archive import Archive, Islands
from autopoiesis.synthesizer.budget import Budget, Limits
from autopoiesis.synthesizer.candidates import Result, Scored
from autopoiesis.synthesizer.evolution import Arm, Evolution
from autopoiesis.synthesizer.features import features
from autopoiesis.synthesizer.fitness import Bounds, judge
from autopoiesis.synthesizer.proposers.base import Draft, Task
from autopoiesis.synthesizer.proposers.mutator import Mutator
from autopoiesis.synthesizer.replay import FailedReplayError, Pass
from autopoiesis.synthesizer.scoring import Plan, WindowScorer
from autopoiesis.synthesizer.situation import Situation

BOUNDS = Bounds(max_rejected=0.1, max_class_loss=0.05, max_fuel=1000.0)


def policy(name, fitness=None):
    source = library.source(name)
    result = None if fitness is None else Result(fitness, stage=3)
    return Scored(policy_hash(source, "dispatch"), source, "dispatch", "library", title=name, result=result)


def constant(value, fitness):
    source = f"API = 1\ndef prioritize(request, ctx):\n    return {value}\ndef route(request, replicas, ctx):\n    return Assign(0)\n"
    return Scored(
        policy_hash(source, "dispatch"), source, "dispatch", "mutator", result=Result(fitness, stage=3)
    )


def niche(found):
    return features(found.source).cell


def test_features_name_the_cell():
    assert features(library.source("round_robin")).cell == "plain/0"
    assert features(library.source("slo_triage_hold")).cell.startswith("defers+predicts+local/")
    assert features(library.source("least_predicted_ttft")).cell.startswith("predicts/")


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20).map(lambda n: n / 10)), max_size=40))
def test_a_cell_keeps_its_best_and_the_newest_result_of_each(entries):
    archive = Archive(niche, per_cell=3)
    archive.add(constant(value, fitness) for value, fitness in entries)
    (cell,) = archive.cells.values() or [()]
    newest = dict(entries)
    assert len(cell) <= 3
    assert [e.fitness for e in cell] == sorted((e.fitness for e in cell), reverse=True)
    if cell:
        assert cell[0].fitness >= min(newest.values())


def test_cells_protect_what_is_different():
    archive = Archive(niche, per_cell=1)
    archive.add(
        [policy("slo_triage", 2.0), policy("round_robin", 0.1), *(constant(n, 0.05) for n in range(5))]
    )
    assert {e.title for e in archive.ranked()} >= {"slo_triage", "round_robin"}


def test_islands_breed_apart_until_their_best_migrate():
    islands = Islands(niche, 3)
    islands.add([constant(1, 0.1)])
    islands.add([constant(2, 0.9)], 1)
    rng = Random(0)
    assert [islands.parents(1, rng, n)[0].fitness for n in range(3)] != [0.9, 0.9, 0.9]
    assert 0.9 not in {p.fitness for p in islands.parents(5, rng, 2)}
    islands.migrate()
    assert 0.9 in {p.fitness for p in islands.parents(5, rng, 2)}
    assert 0.9 not in {p.fitness for p in islands.parents(5, rng, 0)}
    assert [p.fitness for p in islands.ranked()] == [0.9, 0.1]


def test_inspirations_come_from_other_cells_than_the_parents():
    islands = Islands(niche, 2)
    islands.add(
        [policy("slo_triage", 2.0), policy("round_robin", 0.1), policy("least_predicted_ttft", 0.5)], 1
    )
    found = islands.others([policy("slo_triage", 2.0)], 5, Random(0))
    assert {p.title for p in found} == {"round_robin", "least_predicted_ttft"}


def test_parents_are_distinct_best_first_and_mostly_good():
    archive = Archive(niche, per_cell=50)
    archive.add(constant(n, n / 10) for n in range(20))
    rng, counts = Random(0), dict.fromkeys(range(20), 0)
    for _ in range(300):
        chosen = archive.parents(4, rng)
        assert len({c.hash for c in chosen}) == 4
        assert chosen == sorted(chosen, key=lambda c: -c.fitness)
        for c in chosen:
            counts[round(c.fitness * 10)] += 1
    assert counts[19] > 3 * counts[5] > 0


def test_a_budget_bounds_time_candidates_calls_tokens_and_money():
    now = [0.0]
    budget = Budget(Limits(seconds=10, candidates=2, calls=2, tokens=100, cost=1.0), clock=lambda: now[0])
    assert budget.allows_call(tokens=100, cost=1.0)
    assert not budget.allows_call(tokens=101, cost=0.0)
    assert not budget.allows_call(tokens=1, cost=1.1)
    budget.charge_call(tokens=60, cost=0.5)
    assert not budget.allows_call(tokens=41, cost=0.1)
    budget.charge_call(tokens=1, cost=0.0)
    assert not budget.allows_call(tokens=1, cost=0.0)
    assert budget.candidates_left == 2
    now[0] = 10.0
    assert budget.candidates_left == 0


def replayed(*, met=80, arrivals=100, rejected=0, load=1.0, faults=0, fuel=100, classes=None):
    return Pass(
        load=load,
        seed=0,
        span_s=10.0,
        met=met,
        arrivals=arrivals,
        rejected=rejected,
        ttft_p95_s=1.0,
        tpot_p95_s=0.05,
        classes=classes or {"interactive": (met, arrivals)},
        gpus={"H100": (met, arrivals)},
        faults=faults,
        fuel=fuel * arrivals,
    )


def test_fitness_is_goodput_relative_to_the_incumbent_per_load():
    theirs = [replayed(met=80), replayed(met=40, load=1.3)]
    ours = [replayed(met=88), replayed(met=60, load=1.3)]
    result = judge(ours, theirs, BOUNDS, 3)
    assert result.fitness == pytest.approx((1.1 + 1.5) / 2)
    assert [s.load for s in result.scores] == [1.0, 1.3]
    assert result.breakdown["class interactive"] == pytest.approx(148 / 200)


@pytest.mark.parametrize(
    "broken",
    [
        {"rejected": 20},
        {"faults": 1},
        {"fuel": 1001},
        {"classes": {"interactive": (60, 60), "batch": (30, 40)}},
    ],
)
def test_what_the_evaluator_would_refuse_costs_fitness(broken):
    theirs = [replayed(classes={"interactive": (45, 60), "batch": (35, 40)})]
    fine = judge([replayed(met=90, classes={"interactive": (55, 60), "batch": (35, 40)})], theirs, BOUNDS, 3)
    worse = judge(
        [replayed(**{"met": 90, "classes": {"interactive": (55, 60), "batch": (35, 40)}, **broken})],
        theirs,
        BOUNDS,
        3,
    )
    assert fine.fitness == pytest.approx(90 / 80)
    assert worse.fitness <= fine.fitness - 0.5


def test_an_arm_knows_its_best_after_each_candidate():
    arm = Arm()
    arm.add([float("-inf"), 1.0, 0.5, 2.0])
    assert [arm.after(n) for n in range(6)] == [None, None, 1.0, 1.0, 2.0, 2.0]


class Landscape:
    """Stands in for the replays: goodput grows with the number of terms a score weighs, up to five."""

    def __init__(self):
        self.runs = []

    async def run(self, found, place, loads, seeds):
        self.runs.append((found.hash, place, tuple(loads), tuple(seeds)))
        if "faulty" in found.title:
            raise FailedReplayError("it fell over")
        terms = min(found.source.count("*"), 5)
        return [replayed(met=50 + 5 * terms, load=load) for load in loads for _ in seeds]

    async def behaviour(self, found):
        return f"what {found.hash} does"


def search(budget, landscape):
    scorer = WindowScorer(landscape, Plan((1.0, 1.3), BOUNDS))
    return Evolution("s", "dispatch", scorer, budget, 6, Situation(), seed=1, islands=2)


async def test_the_search_climbs_and_proposes_what_it_measured_on_fresh_seeds():
    landscape = Landscape()
    evolution = search(Budget(Limits(60, 60, 0, 0, 0)), landscape)
    await evolution.begin(policy("round_robin"), [policy("round_robin"), policy("least_requests")])
    await evolution.run([Mutator()])
    winners = await evolution.winners(2, 0.01)
    assert winners
    assert winners[0].fitness == pytest.approx(75 / 50)
    assert all((w.hash, "window", (1.0, 1.3), (101,)) in landscape.runs for w in winners)
    assert evolution.incumbent.hash not in {w.hash for w in winners}
    arms = evolution.arms()
    assert arms["independent_candidates"] + arms["evolved_candidates"] == 60
    refused = {w.hash for w in winners}
    assert not refused & {w.hash for w in await evolution.winners(2, 0.01, without=refused)}


async def test_a_budget_that_ends_at_once_still_proposes_the_best_seed():
    budget = Budget(Limits(0.0, 60, 0, 0, 0))
    evolution = search(budget, Landscape())
    seeds = [policy("least_requests"), policy("llmd_scorers")]
    await evolution.begin(policy("round_robin"), seeds)
    await evolution.run([Mutator()])
    assert budget.candidates == 0
    best = max(seeds, key=lambda s: s.source.count("*"))
    assert [w.hash for w in await evolution.winners(2, 0.01)] == [best.hash]


async def test_cheap_stages_come_first_and_not_everybody_goes_on():
    landscape = Landscape()
    evolution = search(Budget(Limits(60, 30, 0, 0, 0)), landscape)
    await evolution.begin(policy("round_robin"), [])
    await evolution.run([Mutator()])
    stretch, whole = (
        {h for h, place, loads, _ in landscape.runs if place == where and len(loads) == count}
        for where, count in (("stretch", 1), ("window", 2))
    )
    assert len(whole) < len(stretch)
    assert whole <= stretch


class Once:
    """A proposer with one draft, again and again."""

    name = "once"

    def __init__(self, *drafts):
        self.drafts, self.tasks = drafts, []

    async def propose(self, task, count):
        self.tasks.append(task)
        return self.drafts if len(self.tasks) == 1 else ()


async def test_failures_reach_the_next_task_and_duplicates_are_not_raced():
    bad = Draft("API = 1\nimport os\n", "llm", note="bad idea")
    good = Draft(library.source("slo_triage"), "llm", note="good idea")
    faulty = Draft(library.source("power_of_two"), "llm", note="faulty idea")
    landscape, proposer = Landscape(), Once(bad, good, good, faulty)
    ticks = itertools.count()
    budget = Budget(Limits(60, 60, 0, 0, 0), clock=lambda: float(next(ticks)))
    evolution = search(budget, landscape)
    await evolution.begin(policy("round_robin"), [])
    await evolution.run([proposer])
    assert budget.candidates == 2
    failures = proposer.tasks[-1].failures
    assert any("bad idea" in f and "[import]" in f for f in failures)
    assert any("faulty idea: it fell over" in f for f in failures)


async def test_a_search_that_is_cut_short_ends():
    evolution = search(Budget(Limits(3600, 10**9, 0, 0, 0)), Landscape())
    await evolution.begin(policy("round_robin"), [])
    proposer = Once()
    evolution.cut_short()
    await evolution.run([proposer])
    assert not proposer.tasks


def test_a_prompt_holds_what_is_needed_and_names_equals_once():
    result = Result(
        1.25,
        (Score(load=1.0, goodput=9.5, attainment=0.9, rejected=0.0, ttft_p95_s=0.8, tpot_p95_s=0.04),),
        {"class batch": 0.7},
    )
    incumbent = replace(policy("round_robin"), result=result)
    tried = replace(policy("random"), result=Result(0.4), feedback="reject: too slow")
    task = Task(
        scope="s",
        kind="dispatch",
        incumbent=incumbent,
        parents=(incumbent,),
        best=incumbent,
        tried=(tried,),
        failures=("a report",),
        situation=Situation(workload=("10 per s",), fleet=("1 x H100",), objectives=("batch",)),
    )
    text = prompt.show(prompt.Request(task, incumbent))
    for part in (
        "9.500",
        "class batch 0.700",
        "reject: too slow",
        "a report",
        "10 per s",
        "1 x H100",
        "<<<<<<< SEARCH",
    ):
        assert part in text
    assert text.count("request.seq + request.attempts") == 1
    assert "PARENT: the same policy as INCUMBENT" in text
    assert "single ```python block" in prompt.show(prompt.Request(task, incumbent, rewrite=True))
