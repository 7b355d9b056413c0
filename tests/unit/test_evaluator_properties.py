"""Properties on random states: the shipped policies keep them, broken ones are told what broke."""

import json

import pytest

from autopoiesis.contracts.messages.fleet import ModelBounds
from autopoiesis.evaluator import plan_properties
from autopoiesis.evaluator.properties import check, run
from autopoiesis.policy import library
from autopoiesis.policy.language import compile_policy

HEAD = "API = 1\n\ndef prioritize(request, ctx):\n    return request.arrival\n\n"


@pytest.mark.parametrize("name", library.names("dispatch"))
def test_shipped_policies_keep_them(name: str) -> None:
    assert check(library.load(name), seed=11) is None


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("return Assign(len(replicas))", "InvalidDecision in random state"),
        ("return Assign(int(10 / (replicas[0].step_time * 100)) * 0)", "ZeroDivisionError"),
        ("return HOLD if ctx.attainment == 1.0 else Assign(0)", "answered HOLD with every replica idle"),
        ("return REJECT", "answered REJECT with every replica idle"),
        (
            "total = 0\n    for a in range(300):\n        for b in range(300):\n            total += a * b\n    return Assign(total * 0)",
            "OutOfFuel",
        ),
    ],
)
def test_broken_ones_are_told_what_broke(body: str, complaint: str) -> None:
    source = f"{HEAD}def route(request, replicas, ctx):\n    {body}\n"
    found = check(compile_policy(source, "dispatch"), seed=3)
    assert found is not None
    assert complaint in found
    assert run(json.dumps({"source": source, "seed": 3}).encode()).decode() == found


def test_a_random_policy_is_the_same_when_asked_the_same() -> None:
    source = (
        f"{HEAD}def route(request, replicas, ctx):\n    return Assign(int(ctx.random() * len(replicas)))\n"
    )
    assert check(compile_policy(source, "dispatch"), seed=5) is None


PLACE = plan_properties.Place(
    models=("Llama-3.1-8B", "qwen2.5-7b"),
    gpus={"H100": (2, 8), "L40S": (6, 12)},
    bounds={"qwen2.5-7b": ModelBounds(min_replicas=0, max_replicas=6)},
    quota={"L40S": 8},
)


@pytest.mark.parametrize("name", library.names("plan", every=True))
def test_shipped_plan_policies_keep_their_properties(name: str) -> None:
    assert plan_properties.check(library.load(name), PLACE, seed=3, states=6) is None


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ('[Replicas(0, "TPU", 1, 1)]', "InvalidDecision in random state 0"),
        ("[Replicas(0, ctx.gpus[0].type, 1, 999)]", "the plan takes 999 GPUs"),
        ("[Replicas(0, ctx.gpus[0].type, 1, 1 // (ctx.step - ctx.step))]", "ZeroDivisionError"),
    ],
)
def test_plan_policies_that_break_in_some_state_are_found(body: str, what: str) -> None:
    source = f"API = 1\n\n\ndef should_reschedule(ctx):\n    return True\n\n\ndef schedule(ctx):\n    return {body}\n"
    assert what in (plan_properties.check(compile_policy(source, "plan"), PLACE, seed=1) or "")
