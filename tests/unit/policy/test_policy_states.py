"""Views from plain data and back; a plan step as the jail runs it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from plan_world import context

from autopoiesis.policy import library
from autopoiesis.policy.api import Replicas
from autopoiesis.policy.states import StateError, dispatch_state, plan_data, plan_state
from autopoiesis.simulator import plan_step

STATE: dict[str, Any] = {
    "models": [{"name": "Llama-3.1-8B", "concurrency": 40, "prompt_tokens": 500, "output_tokens": 300}],
    "gpus": [{"type": "H100", "count": 4, "per_node": 4}],
}
EAGER = "def should_reschedule(ctx):\n    return True\n\n\ndef schedule(ctx):\n    return "


def step(policy: str, **changes: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        plan_step.run(json.dumps({"policy": policy, "state": {**STATE, **changes}}).encode())
    )
    return answer


def test_a_plan_context_survives_the_journey() -> None:
    before = context([(3, 128, 64), (9, 512, 64)], {"H100": 8})
    plan = (Replicas(0, "H100", 1, 2, 4), Replicas(1, "H100", 2, 1, role="prefill", share=0.5))
    ctx = context([(4, 128, 64), (9, 512, 64)], {"H100": 8}, plan=plan, last=before, step=1)
    ctx.history = (before,)
    data = json.loads(json.dumps(plan_data(ctx)))
    again = plan_state(data)
    assert plan_data(again) == data
    assert again.plan == plan
    assert again.last is not None
    assert again.last.models[0].concurrency == 3
    assert [old.step for old in again.history] == [0]


def test_a_dispatch_state_is_filled_where_nothing_is_said() -> None:
    request, replicas, ctx = dispatch_state(
        {"request": {"deadline": "inf", "waited": 1, "workflow": {"age": 2.0}}, "replicas": [{}, {"tp": 2}]}
    )
    assert (request.deadline, request.waited, request.workflow.age) == (math.inf, 1.0, 2.0)  # type: ignore[union-attr]
    assert [(replica.index, replica.tp) for replica in replicas] == [(0, 1), (1, 2)]
    assert 0.0 <= ctx.random() < 1.0


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (
            {"request": {"prompt_token": 3}},
            r"request has no field 'prompt_token'; did you mean 'prompt_tokens'",
        ),
        ({"request": {"seq": "3"}}, r"request.seq is '3'; it is of type int"),
        ({"replicas": {}}, r"replicas is not a list"),
        ({"replica": []}, r"state has no field 'replica'; did you mean 'replicas'"),
    ],
)
def test_what_is_no_state_is_explained(state: dict[str, Any], says: str) -> None:
    with pytest.raises(StateError, match=says):
        dispatch_state(state)


def test_a_step_completes_names_and_answers_with_a_plan() -> None:
    answer = step(library.source("plan_greedy"))
    assert answer["rescheduled"]
    assert answer["plan"][0]["gpu"] == "H100"
    assert answer["fuel"] > 0
    assert not step(library.source("plan_milp_once"), plan=answer["plan"])["rescheduled"]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('[Replicas(0, "H100", 1, 5)]', "takes 5 GPUs of type H100; it may take 4"),
        ('[Replicas(1, "H100", 1, 1)]', "model is 1; it is an index from 0 to 0"),
        ("[ctx.toolkit.latency(ctx.models[0], ctx.gpus[0], 0, 1)]", "tp is an integer from 1"),
        ("[ctx.toolkit.latency(ctx, ctx.gpus[0], 1, 1)]", "takes entries of ctx.models and ctx.gpus"),
        ("ctx.toolkit.best_plan([Replicas(0, 'H100', 1, 0, 8)], move_weight=math.inf)", "move_weight is inf"),
        ("[ctx.toolkit.milp().constraint({0: 1.0}, 0, 1)]", "a constraint names a variable"),
        ("[][3]", "IndexError"),
    ],
)
def test_a_fault_is_an_answer(body: str, fault: str) -> None:
    answer = step(EAGER + body + "\n")
    assert fault in answer["fault"]
    assert answer["plan"] is None


def test_bounds_of_replicas_hold() -> None:
    bounded = [{**STATE["models"][0], "min_replicas": 2, "max_replicas": 3}]
    few, right = (
        step(EAGER + '[Replicas(0, "H100", 1, 1)]\n', models=bounded),
        step(library.source("plan_greedy"), models=bounded),
    )
    assert "has 1 replicas of model 0; it has 2 to 3" in few["fault"]
    assert 2 <= sum(entry["count"] for entry in right["plan"]) <= 3


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ValueError, match="unknown model 'none'"):
        step(library.source("plan_greedy"), models=[{"name": "none", "concurrency": 1}])


def test_a_policy_solves_its_own_program() -> None:
    source = """
def should_reschedule(ctx):
    return True


def schedule(ctx):
    program = ctx.toolkit.milp()
    counts = [program.variable(0, 10, tp) for tp in (1, 2, 4)]
    program.constraint({counts[0]: 1, counts[1]: 3, counts[2]: 4}, 4, math.inf)
    found = program.solve(node_limit=100)
    if found.status != "optimal":
        return []
    return [Replicas(0, "H100", tp, int(x)) for tp, x in zip((1, 2, 4), found.x) if x]
"""
    assert [(entry["tp"], entry["count"]) for entry in step(source)["plan"]] == [(1, 1), (2, 1)]
