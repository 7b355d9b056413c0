"""`autopoiesis policy run`: the decision and its cost, as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autopoiesis.cli.app import run
from autopoiesis.policy import library
from autopoiesis.policy.examples import EXAMPLES


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = run(["policy", "run", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_dispatch_policy_on_its_example(capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = ran(capsys, "slo_triage")
    assert code == 0
    assert answer["decision"] == {"replica": 1, "decode": -1, "priority": None}
    assert 0 < answer["fuel"] < answer["fuel_limit"]
    assert answer["seconds"] > 0
    assert "predicted_ttft" in answer["reads"]["Replica"]
    assert set(answer["reads"]) <= {"Request", "Replica", "DispatchContext", "Workflow"}


def test_a_plan_policy_runs_in_the_jail(capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = ran(capsys, "plan_milp_move_cost")
    assert code == 0
    assert answer["rescheduled"]
    assert sum(entry["tp"] * entry["count"] for entry in answer["decision"] if entry["gpu"] == "H100") <= 16
    assert answer["reads"]["PlanContext"] == ["gpus", "last", "models", "plan", "toolkit"]


def test_a_state_from_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    state.write_text(json.dumps({"replicas": [{"running": 9}, {"running": 2}]}))
    code, answer = ran(capsys, "least_requests", "--state", str(state))
    assert (code, answer["decision"]["replica"]) == (0, 1)


def test_a_fault_is_told_and_exits_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    policy = tmp_path / "bad.py"
    policy.write_text(
        "def prioritize(request, ctx):\n    return 1\n\n\ndef route(request, replicas, ctx):\n    return replicas[99].id\n"
    )
    code, answer = ran(capsys, str(policy))
    assert code == 1
    assert "line 6: IndexError" in answer["fault"]


@pytest.mark.parametrize("kind", ["dispatch", "plan"])
def test_example_states_are_printed(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    assert run(["policy", "run", "--example", kind]) == 0
    assert json.loads(capsys.readouterr().out) == EXAMPLES[kind]  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name a policy file or a shipped policy"),
        (["nowhere.py"], "nowhere.py does not exist; shipped policies are"),
        (["least_requests", "--state", "nowhere.json"], "nowhere.json does not exist"),
    ],
)
def test_what_is_wrong_is_said(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert run(["policy", "run", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_verify_finds_the_kind_itself(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan = tmp_path / "plan.py"
    plan.write_text(library.source("plan_greedy"))
    assert run(["policy", "verify", str(plan), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "plan"
