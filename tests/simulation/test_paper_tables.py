"""The accounting against the figures the paper prints, and its shapes; skipped where those figures are not at hand."""

import json
from pathlib import Path

import pytest

from autopoiesis.policy import library
from autopoiesis.policy.language import compile_policy
from autopoiesis.simulator.intervals import Assumptions, CostModel, paper
from autopoiesis.simulator.intervals.bound import lower_bound
from autopoiesis.simulator.intervals.world import Outcome, account, decide

FIGURES = Path(__file__).parents[3] / "shared" / "data" / "paper" / "traces.json"

pytestmark = pytest.mark.skipif(
    not FIGURES.exists(), reason=f"the paper's figures are not in {FIGURES.parent}"
)


@pytest.fixture(scope="module")
def figures():
    return paper.read(FIGURES)


def charged(source, trace, cost, per_call_s) -> Outcome:
    """Deterministic: every call of `schedule` is charged the same."""
    found = decide(compile_policy(source, "plan"), trace, cost)
    return account(trace, found, cost, charge=lambda d: per_call_s if d.rescheduled else 0.0)


def test_the_traces_hold_the_tokens_of_its_throughputs(figures):
    assert paper.volatile(figures).tokens == 70_066_176
    assert paper.stable(figures).tokens == 80_966_144


@pytest.mark.parametrize(
    ("which", "stale", "moved", "serve", "rate"),
    [
        ("volatile", 65.1, 244.8, 422.1, 95_723),
        ("volatile", 104.7, 0.0, 686.5, 88_558),
        ("volatile", 17.5, 217.6, 416.3, 107_578),
        ("stable", 27.2, 38.0, 120.5, 436_353),
        ("stable", 34.3, 0.0, 113.3, 548_851),
        ("stable", 4.3, 4.2, 115.8, 651_222),
    ],
)
def test_its_throughputs_are_tokens_over_the_sum_of_its_parts(figures, which, stale, moved, serve, rate):
    trace = getattr(paper, which)(figures)
    assert trace.tokens / (stale + moved + serve) == pytest.approx(rate, rel=1e-3)


def test_every_trace_can_be_served(figures):
    for trace in paper.every(figures):
        assert all(step.tokens > 0 for step in trace.steps)
        if not trace.name.startswith("HexGen"):
            assert 0 < lower_bound(trace, CostModel()).total_s < float("inf")


def test_unknown_figures_are_refused(tmp_path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"sec8_2": {}}))
    with pytest.raises(ValueError, match="not the paper's tables: sec8_1_stable, sec8_1_volatile"):
        paper.read(other)


def test_greedy_wins_where_loads_change_and_planning_once_where_they_do_not(figures):
    cost = CostModel()
    for which, greedy_s, once_s in (("volatile", 6.51, 104.7), ("stable", 2.72, 34.3)):
        trace = getattr(paper, which)(figures)
        greedy = charged(library.source("plan_greedy"), trace, cost, greedy_s)
        once = charged(library.source("plan_milp_once"), trace, cost, once_s)
        assert (greedy.reschedules, once.reschedules) == (10, 1)
        assert (greedy.tokens_per_s > once.tokens_per_s) == (which == "volatile")


def test_minimal_migration_wins_where_the_cluster_changes_most(figures):
    cost = CostModel(Assumptions(shard_attention=False))
    for which, full_s, minimal_s in (("volatile", 9.7, 1.6), ("stable", 9.6, 2.1)):
        trace = paper.elastic(figures, which)
        full = charged(library.source("plan_full_migration"), trace, cost, full_s / 5)
        minimal = charged(library.source("plan_minimal_migration"), trace, cost, minimal_s / 5)
        assert (minimal.total_s < full.total_s) == (which == "volatile")


def test_full_migration_serves_as_long_as_the_paper_says(figures):
    """3,932,160 tokens at 11,080 tokens/s, less its 9.6 s of scheduling and 67.9 s of moving."""
    cost, trace = CostModel(Assumptions(shard_attention=False)), paper.elastic(figures, "stable")
    full = charged(library.source("plan_full_migration"), trace, cost, 0.0)
    assert full.serve_s == pytest.approx(3_932_160 / 11_080 - 9.6 - 67.9, rel=0.02)
