"""`compare` says of each policy what `evaluate` says, on one core or several, and draws it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autopoiesis.policy import library
from autopoiesis.policy.language import PolicyError
from autopoiesis.simulator import SLO, Comparison, Fleet, Trace, compare, evaluate, plots
from autopoiesis.simulator.fleet import Change
from autopoiesis.simulator.workload.generate import poisson

GOAL = SLO(ttft_s=0.5, tpot_s=0.05)
FLEET = "1xL40S + 1xL4"
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def traffic() -> Trace:
    return poisson(2.0, 130.0, seed=3)


@pytest.fixture(scope="module")
def compared(traffic: Trace) -> Comparison:
    policies = {"mine": library.source("least_requests"), "random": "random", "round_robin": "round_robin", "least_kv": "least_kv_tokens"}  # fmt: skip
    return compare(policies, traffic, FLEET, GOAL, loads=(0.5, 1.0), seeds=(0, 1))


def test_figures_are_those_of_evaluate(compared: Comparison, traffic: Trace) -> None:
    report = evaluate("random", traffic, FLEET, GOAL, loads=(0.5, 1.0), seeds=(0, 1))
    for run, cell in zip(report.runs, compared.of("random"), strict=True):
        assert (cell.load, cell.seed) == (run.load, run.seed)
        assert cell.figures == pytest.approx(run.summary(), nan_ok=True)
        assert cell.met.sum() == run.met[run.scored].sum()
        assert np.isfinite(cell.ttft_s).all()


def test_several_processes_give_the_same(compared: Comparison, traffic: Trace) -> None:
    seen: list[tuple[int, int]] = []
    policies = {"mine": library.source("least_requests"), "random": "random", "round_robin": "round_robin", "least_kv": "least_kv_tokens"}  # fmt: skip
    again = compare(
        policies,
        traffic,
        FLEET,
        GOAL,
        (0.5, 1.0),
        (0, 1),
        processes=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert again.to_pandas().equals(compared.to_pandas())
    assert (seen[0], seen[-1]) == ((0, 16), (16, 16))


def test_a_policy_under_two_names_is_level_with_itself(traffic: Trace) -> None:
    twins = compare({"a": "random", "b": library.source("random")}, traffic, FLEET, GOAL)
    assert [(s.policy, s.group) for s in twins.ranking()] == [("a", 1), ("b", 1)]


def test_a_policy_may_be_a_file(traffic: Trace, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(library.source("random"))
    by_name = evaluate("random", traffic, FLEET, GOAL)
    assert evaluate(file, traffic, FLEET, GOAL).policy == by_name.policy
    assert evaluate(str(file), traffic, FLEET, GOAL).policy == by_name.policy
    twins = compare({"a": "random", "b": file}, traffic, FLEET, GOAL)
    assert twins.gain("b", over="a").gain == 0


def test_results_are_told_in_a_line(compared: Comparison, traffic: Trace) -> None:
    report = evaluate("random", traffic, FLEET, GOAL)
    assert repr(report).startswith(
        f"<Report on policy {report.policy[:12]}: <Run at load 1, seed 0: {len(traffic)} arrivals"
    )
    assert repr(compared).startswith("<Comparison of 4 policies at loads 0.5, 1; best ")


def test_what_makes_no_sense_is_refused(traffic: Trace) -> None:
    with pytest.raises(ValueError, match="plan_keep is a plan policy; here a dispatch policy is needed"):
        evaluate("plan_keep", traffic, FLEET)
    with pytest.raises(ValueError, match="objectives for chat, but the trace's classes are default"):
        evaluate("random", traffic, FLEET, {"chat": GOAL})
    with pytest.raises(ValueError, match="at least one policy"):
        compare([], traffic, FLEET)
    with pytest.raises(ValueError, match="warmup_s = 500"):
        compare(["random"], traffic, FLEET, warmup_s=500.0)
    with pytest.raises(PolicyError):
        compare({"bad": "API = 1\nimport os\n"}, traffic, FLEET)
    with pytest.raises(KeyError, match="no shipped policy 'fastest'"):
        compare(["fastest"], traffic, FLEET)


def test_every_picture_can_be_drawn(compared: Comparison, traffic: Trace, tmp_path: Path) -> None:
    fleet = Fleet.parse(FLEET).with_changes([Change(at=20.0, kind="drain", replica="l4-1")])
    run = evaluate("least_requests", traffic, fleet, GOAL).runs[0]
    figures = {
        "overview": plots.overview(compared, highlight=["mine"], slo_s=0.5),
        "one": plots.overview(compared.at(1.0)),
        "goodput": plots.goodput_over_load(compared),
        "ttft": plots.ttft_cdf(compared),
        "in_system": plots.in_system(run),
        "utilisation": plots.utilisation(run),
        "timeline": plots.fleet_timeline(run),
    }
    for name, figure in figures.items():
        figure.savefig(tmp_path / name, format="png")
        assert (tmp_path / name).read_bytes().startswith(PNG)
        assert all(axis.get_xlabel() for axis in figure.axes), name


def test_requests_in_the_picture_are_those_in_the_system(traffic: Trace) -> None:
    run = evaluate("least_requests", traffic, FLEET, GOAL).runs[0]
    held, waiting, decoding = plots.where_requests_are(run, np.array([10.0, 60.0, 1e6]))
    for place, time in enumerate((10.0, 60.0)):
        there = ((run.arrival_s <= time) & (run.ended_s > time)).sum()
        assert held[place] + waiting[place] + decoding[place] == there > 0
    assert held[2] == waiting[2] == decoding[2] == 0


def test_a_run_knows_when_each_replica_was_what(traffic: Trace) -> None:
    first, second = Fleet.parse(FLEET).replicas
    late = replace(second, name="late")
    changes = [
        Change(at=20.0, kind="fail", replica=second.name),
        Change(at=30.0, kind="join", replica="late", spec=late, takes_s=5.0),
    ]
    run = evaluate("least_requests", traffic, Fleet((first, second)).with_changes(changes), GOAL).runs[0]
    assert {replica.name: replica.history for replica in run.replicas} == {
        first.name: ((0.0, "ready"),),
        second.name: ((0.0, "ready"), (20.0, "failed")),
        "late": ((30.0, "loading"), (35.0, "ready")),
    }
    (axis,) = plots.fleet_timeline(run).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == [first.name, second.name, "late"]
