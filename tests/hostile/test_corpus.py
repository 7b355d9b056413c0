"""Every program of the corpus is refused, or stopped by fuel and guards within its limits."""

import json
from collections.abc import Iterator
from pathlib import Path

import corpus_rejected
import corpus_stopped
import pytest
from policy_jobs import fleet
from programs import whole

from autopoiesis.policy.api import DispatchContext, Request
from autopoiesis.policy.jail import Jail, Job, Limits
from autopoiesis.policy.language import InvalidDecision, PolicyFault, compile_policy, verify

BYTES_PER_FUEL = 64
FIXED_BYTES = 1 << 20
LIMITS = Limits(wall_s=120, cpu_s=10, memory_bytes=256 << 20)


def _cases(groups: dict[str, dict[str, str]]) -> list[object]:
    return [
        pytest.param(program, id=f"{group}: {name}".replace(" ", "-"))
        for group, programs in groups.items()
        for name, program in programs.items()
    ]


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        with Jail(["policy_jobs"], workers=1, limits=LIMITS) as running:
            yield running


def test_corpus_is_large() -> None:
    groups = [*corpus_rejected.GROUPS.values(), *corpus_stopped.STOPPED.values()]
    groups += [corpus_stopped.FAULTS, corpus_stopped.NONSENSE]
    assert sum(map(len, groups)) >= 350


@pytest.mark.parametrize("program", _cases(corpus_rejected.GROUPS))
def test_is_refused_with_a_place_and_a_rule(program: str) -> None:
    report = verify(whole(program), "dispatch")
    assert not report.ok
    assert all(problem.rule and problem.message for problem in report.problems)


@pytest.mark.parametrize("program", _cases(corpus_stopped.STOPPED))
def test_is_stopped_within_its_limits(program: str, jail: Jail) -> None:
    assert verify(whole(program), "dispatch").ok, "this entry is to test the meter, not the verifier"
    ended = json.loads(jail.run(Job("policy_jobs:run", whole(program).encode())))
    assert ended["outcome"] in {"OutOfFuel", "PolicyFault"}
    assert ended["peak_bytes"] <= BYTES_PER_FUEL * ended["fuel"] + FIXED_BYTES


@pytest.mark.parametrize("program", _cases({"fault": corpus_stopped.FAULTS}))
def test_fault_names_its_line(program: str) -> None:
    policy = compile_policy(whole(program), "dispatch")
    with pytest.raises(PolicyFault) as caught:
        policy.route(Request(), fleet(), DispatchContext())
    assert "def " not in policy.source.splitlines()[caught.value.line - 1]


@pytest.mark.parametrize("program", _cases({"nonsense": corpus_stopped.NONSENSE}))
def test_nonsense_is_no_decision(program: str) -> None:
    policy = compile_policy(whole(program), "dispatch")
    with pytest.raises(InvalidDecision) as caught:
        policy.route(Request(), fleet(), DispatchContext())
    assert len(caught.value.reason) < 300
