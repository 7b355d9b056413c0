"""Plan policies that attack what helps them, in the jail with the cost model and the solver."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from autopoiesis.policy import library
from autopoiesis.policy.jail import Jail, JailTimeout, Job, Limits

STATE = {
    "models": [{"name": "Llama-3.1-8B", "concurrency": 4000, "prompt_tokens": 500, "output_tokens": 300}],
    "gpus": [{"type": kind, "count": 64, "per_node": 8} for kind in ("H100", "H200", "A100-80")],
}
HEAD = "def should_reschedule(ctx):\n    return True\n\n\ndef schedule(ctx):\n"
HARD_PROGRAM = """
    program = ctx.toolkit.milp()
    items = [program.variable(0, 1, -1.0 - ctx.toolkit.random()) for _ in range(400)]
    for _ in range(100):
        program.constraint({i: ctx.toolkit.random() for i in items}, -math.inf, 60.0)
    program.solve(node_limit=1000000000, time_limit=1000000.0, gap=0.0)
    return []
"""


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail]:
    with Jail(["autopoiesis.simulator.plan_step"], workers=1) as running:
        yield running


def run(jail: Jail, body: str, **limits: float) -> dict[str, object]:
    payload = json.dumps({"policy": HEAD + body, "state": STATE}).encode()
    bounds = Limits(**limits) if limits else None  # type: ignore[arg-type]
    answer: dict[str, object] = json.loads(
        jail.run(Job("autopoiesis.simulator.plan_step:run", payload, bounds))
    )
    return answer


@pytest.mark.parametrize(
    "body",
    [
        "    while True:\n        ctx.toolkit.best_plan([Replicas(0, 'H100', 1, 0, b) for b in range(1, 600)])\n",
        "    while True:\n        ctx.toolkit.makespan([Replicas(0, 'H100', 1, 1) for _ in range(100000)])\n",
        HARD_PROGRAM,
    ],
    ids=["solves for ever", "estimates for ever", "one program without end"],
)
def test_time_ends_at_the_jail_whatever_the_policy_allows_itself(jail: Jail, body: str) -> None:
    with pytest.raises(JailTimeout):
        run(jail, body, cpu_s=2.0, wall_s=60.0)


def test_memory_of_programs_is_bounded(jail: Jail) -> None:
    body = (
        "    programs = [ctx.toolkit.milp() for _ in range(1000)]\n"
        "    while True:\n        [p.variable(0, 1, 0) for p in programs]\n"
    )
    assert "MemoryError" in str(run(jail, body, memory_bytes=64 << 20)["fault"])


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("    program = ctx.toolkit.milp()\n    return [program.variable(0, 1, 0) for _ in range(30000)]\n", "at most 20000 variables"),
        ("    return ctx.toolkit.best_plan([Replicas(0, 'H100', 1, 0, 1) for _ in range(9000)])\n", "at most 5000 options"),
        ("    return ctx.toolkit.best_plan([Replicas(0, 'H100', 1 << 40, 0, 1)])\n", "tp is"),
        ("    return ctx.toolkit.latency(ctx.models[0], ctx.gpus[0], 1, 1 << 60)\n", "batch is an integer"),
        ("    return [ctx.toolkit.milp().solve]\n", "is a method and can only be called"),
        ("    return ctx.toolkit._estimator\n", "VerificationError"),
    ],
)  # fmt: skip
def test_abuse_is_a_fault(jail: Jail, body: str, fault: str) -> None:
    assert fault in str(run(jail, body)["fault"])


@pytest.mark.parametrize("name", library.names("plan"))
def test_shipped_plan_policies_run_confined(jail: Jail, name: str) -> None:
    payload = json.dumps({"policy": library.source(name), "state": STATE}).encode()
    answer = json.loads(jail.run(Job("autopoiesis.simulator.plan_step:run", payload)))
    assert answer["plan"]
    assert not answer["fault"]
