"""Plan policies evolved in a real jail, written down, and evolved again from the record alone."""

import itertools

import pytest

from autopoiesis.policy import library
from autopoiesis.policy.jail import Jail, Limits
from autopoiesis.policy.language import policy_hash
from autopoiesis.simulator.intervals import Assumptions, PlanTrace, Step
from autopoiesis.simulator.intervals.paper import qwen
from autopoiesis.simulator.intervals.traces import Load, pool_of
from autopoiesis.synthesizer import prompt
from autopoiesis.synthesizer.budget import Budget
from autopoiesis.synthesizer.budget import Limits as Spend
from autopoiesis.synthesizer.candidates import Scored
from autopoiesis.synthesizer.evolution import Evolution
from autopoiesis.synthesizer.llm import Answer, LlmError
from autopoiesis.synthesizer.plans import MODULE, PlanRuns, PlanScorer, situation_of_trace
from autopoiesis.synthesizer.proposers.llm import LlmProposer
from autopoiesis.synthesizer.recorded import RecordedModel, Recording
from autopoiesis.synthesizer.replay import FailedReplayError

FIXED = '''Less parallelism wastes less.
```python
"""All GPUs at tp {tp}, once."""
API = 1
def should_reschedule(ctx):
    return False
def schedule(ctx):
    return [Replicas(0, "H100", {tp}, {count})]
```'''


def trace():
    steps = tuple(Step({"Qwen2.5-7B": Load(n, 256, 256)}, {"H100": 4}) for n in (40, 60))
    return PlanTrace("t", (qwen("7B"),), (pool_of("H100"),), steps)


def seed(name):
    source = library.source(name)
    return Scored(policy_hash(source, "plan"), source, "plan", "library", title=name)


def written(source):
    return Scored(policy_hash(source, "plan"), source, "plan", "llm")


class Scripted:
    """Answers in turn; every third with something else than a policy."""

    name = "scripted"

    def __init__(self):
        self.numbers = itertools.count()

    def worst_case(self, messages):
        return 1000, 0.0

    async def complete(self, messages, *, timeout_s=None):
        number = next(self.numbers)
        text = "no idea" if number % 3 == 2 else FIXED.format(tp=1 + number % 2, count=1 + number % 3)
        return Answer(text, "scripted", 10, 10, 0.0, 0.0)


async def search(recording, model, jail):
    runs = PlanRuns(trace(), Assumptions(), jail, repeats=1, recorded=recording.runs())
    budget = Budget(Spend(600, 4, 24, 10**9, 0.0))
    evolution = Evolution(
        "t", "plan", PlanScorer(runs), budget, 3, situation_of_trace(trace()), seed=3, islands=2
    )

    async def keep(call):
        recording.keep_runs(runs.results)
        await recording.keep_call(call)

    await evolution.begin(seed("plan_greedy"), [seed("plan_greedy"), seed("plan_milp_once")])
    await evolution.run([LlmProposer(model, budget, keep, failures=evolution.failures)])
    recording.keep_runs(runs.results)
    return evolution


@pytest.fixture(scope="module")
def jail():
    with Jail((MODULE,), workers=2, limits=Limits(wall_s=60, cpu_s=30)) as started:
        yield started


async def test_a_synthesis_is_repeated_from_its_recording_without_model_or_jail(jail, tmp_path):
    recording = Recording(tmp_path)
    first = await search(recording, Scripted(), jail)
    assert any("neither SEARCH/REPLACE" in why for why in first.failures)
    again = await search(recording, RecordedModel(recording.completions()), None)
    ranked = [(p.hash, p.fitness) for p in first.archive.ranked()]
    assert any(p.origin == "llm" for p in first.archive.ranked())
    assert [(p.hash, p.fitness) for p in again.archive.ranked()] == ranked
    lines = len((tmp_path / "completions.jsonl").read_text().splitlines())
    assert lines == len(recording.completions()) >= 4


async def test_a_recording_outlives_other_words_in_its_prompts(jail, tmp_path, monkeypatch):
    recording = Recording(tmp_path)
    first = await search(recording, Scripted(), jail)
    monkeypatch.setitem(prompt._OBJECTIVE, "plan", "Be quick.")
    model = RecordedModel(recording.completions())
    again = await search(recording, model, None)
    assert [p.hash for p in again.archive.ranked()] == [p.hash for p in first.archive.ranked()]
    assert model.reworded == len(recording.completions())


async def test_what_was_not_recorded_is_an_error_not_a_guess(tmp_path):
    model = RecordedModel(Recording(tmp_path).completions())
    with pytest.raises(LlmError, match="no recorded answer"):
        await model.complete([{"role": "user", "content": "?"}])
    runs = PlanRuns(trace(), Assumptions(), None)
    with pytest.raises(FailedReplayError, match="not recorded"):
        await runs.decisions(seed("plan_greedy"))


async def test_fitness_is_total_time_against_the_incumbents(jail):
    runs = PlanRuns(trace(), Assumptions(), jail, repeats=1)
    scorer = PlanScorer(runs, least_s=5.0)
    one, four = (
        written(FIXED.format(tp=1, count=count).split("```python\n")[1].removesuffix("```"))
        for count in (1, 4)
    )
    result = await scorer.score(four, one, 1)
    ours, theirs = await scorer.outcome(four), await scorer.outcome(one)
    assert result.fitness == pytest.approx(theirs.total_s / ours.total_s)
    assert result.fitness > 1
    assert ours.stale_s == pytest.approx(5.0, abs=0.1)
    assert "reconfig s" in result.artifact
    assert "plan from step 0: Qwen2.5-7B" in result.artifact
    told = await PlanScorer(runs, optima=(1.25, 2.5)).score(four, one, 1)
    assert "2.50" in told.artifact.splitlines()[2]
    assert await scorer.behaviour(one) != await scorer.behaviour(four)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ('[Replicas(0, "H100", 8, 1)]', "takes 8 GPUs of type H100"),
        ("[]", "leaves Qwen2.5-7B unserved"),
        ("[1 / 0]", "ZeroDivision"),
    ],
)
async def test_a_candidate_that_cannot_be_carried_out_fails_with_the_reason(jail, plan, words):
    source = f'"""Bad."""\nAPI = 1\ndef should_reschedule(ctx):\n    return False\ndef schedule(ctx):\n    return {plan}\n'
    scorer = PlanScorer(PlanRuns(trace(), Assumptions(), jail, repeats=1))
    with pytest.raises(FailedReplayError, match=words):
        await scorer.score(written(source), written(source), 1)


def test_a_plan_prompt_shows_toolkit_costs_and_other_ideas():
    from autopoiesis.synthesizer.candidates import Result
    from autopoiesis.synthesizer.proposers.base import Task

    parts = {"N": 2.0, "total_s": 80.0}
    parent = Scored(
        "p", "parent text", "plan", "library", result=Result(1.2, (), parts, artifact="step table")
    )
    other = Scored("o", "other text", "plan", "llm", title="other")
    task = Task(
        scope="s", kind="plan", incumbent=parent, parents=(parent,), best=parent, inspirations=(other,), tried=(parent,),
        situation=situation_of_trace(trace()),
    )  # fmt: skip
    text = prompt.show(prompt.Request(task, parent))
    for words in ("best_plan(", "costs: N 2.000", "step table", "other text", "40 x (256 + 256)", "T_total"):
        assert words in text
