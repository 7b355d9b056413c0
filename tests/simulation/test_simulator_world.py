"""The per-request world: laws, determinism, what policies may not see, clients, and fleets that move."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopoiesis.contracts.slo import Objectives
from autopoiesis.dispatch import Dispatcher, DispatchSettings
from autopoiesis.dispatch import events as ev
from autopoiesis.policy import library
from autopoiesis.policy.language import PolicyError, compile_policy
from autopoiesis.simulator.api import (
    SLO,
    Clients,
    Fleet,
    Report,
    WorldSettings,
    capacity,
    evaluate,
    evaluate_many,
    objectives,
)
from autopoiesis.simulator.fleet import Change
from autopoiesis.simulator.report import ConservationError, make_run
from autopoiesis.simulator.requests.outcome import ABANDONED, FAILED, FINISHED, OUTCOMES, REJECTED, UNFINISHED
from autopoiesis.simulator.requests.prepared import Prepared
from autopoiesis.simulator.requests.world import World
from autopoiesis.simulator.workload import Trace
from autopoiesis.simulator.workload import generate as gen
from autopoiesis.simulator.workload.snapshot import InFlight

GOAL = SLO(ttft_s=1.0, tpot_s=0.05)
SENDS_ALL_TO_ONE = "API = 1\ndef prioritize(request, ctx):\n    return 0.0\ndef route(request, replicas, ctx):\n    return {}\n"


def route(answer: str) -> str:
    return SENDS_ALL_TO_ONE.format(answer)


def columns(report: Report) -> list[bytes]:
    names = ("ttft_s", "tpot_s", "e2e_s", "queue_wait_s", "outcome", "replica", "fuel", "holds")
    return [getattr(run, name).tobytes() for run in report.runs for name in names]


@pytest.mark.parametrize("policy", library.names("dispatch"))
def test_every_shipped_policy_runs_lawfully_over_loads(policy: str) -> None:
    trace = gen.poisson(8, 40, mix=[gen.INTERACTIVE, gen.BATCH], seed=1)
    slos = {"interactive": GOAL, "batch": SLO(ttft_s=8, tpot_s=0.2, priority=1)}
    report = evaluate(policy, trace, "1xH100 + 1xL40S", slos, loads=(0.5, 1.3), load_unit="capacity")
    for run in report.runs:
        assert len(run) == len(run.met)
        assert not run.faults
        assert (run.outcome == FINISHED).mean() > 0.7
    light, heavy = report.summary()
    assert 1 >= light["attainment"] >= heavy["attainment"]
    assert heavy["utilisation"] > 0.5
    assert set(report.by_class()) == {"interactive", "batch"}
    assert set(report.by_gpu()) == {"H100", "L40S"}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.sampled_from(library.names("dispatch")), st.booleans())
def test_same_arguments_same_report(seed: int, routers: int, policy: str, noisy: bool) -> None:
    trace = gen.sessions(1.5, 20, turns=3, think_s=2, seed=seed)
    world = WorldSettings(step_noise=0.1 if noisy else 0.0, clients=Clients(timeout_s=4, retries=1))
    one, two = (
        evaluate(policy, trace, "1xL4 + 1xL40S", GOAL, seeds=(seed,), routers=routers, settings=world)
        for _ in range(2)
    )
    assert columns(one) == columns(two)


def test_a_priority_that_the_policy_leaves_out_is_the_class() -> None:
    trace = gen.poisson(40, 20, mix=[gen.INTERACTIVE, gen.BATCH], seed=1)
    slos = {"interactive": GOAL, "batch": SLO(ttft_s=8, tpot_s=0.2, priority=1)}
    left_out, the_class, none = (
        columns(evaluate(route(f"Assign(0{given})"), trace, "1xL4", slos))[:3]
        for given in ("", ", priority=request.priority", ", priority=0")
    )
    assert left_out == the_class
    assert left_out != none


def test_seeds_differ() -> None:
    trace = gen.poisson(10, 30, seed=1)
    report = evaluate("random", trace, "2xL40S", GOAL, seeds=(0, 1))
    first, second = report.runs
    assert (first.replica != second.replica).any()


def test_policies_cannot_see_output_lengths_of_what_has_not_ended() -> None:
    """Two traces alike but for the length of the outputs of one class, which never end within the window."""
    base = gen.poisson(6, 30, seed=3)
    rng = np.random.default_rng(0)
    seen = []
    for lengths in (rng.integers(20_000, 30_000, len(base)), rng.integers(20_000, 30_000, len(base))):
        trace = replace(base, output_tokens=lengths.astype(np.int64))
        events = []
        prepared = Prepared(trace, objectives(GOAL, trace.classes), "m", WorldSettings())
        events.extend(prepared.events)
        report = evaluate("slo_triage", trace, "4xH100", GOAL, settings=WorldSettings(drain_s=1.0))
        seen.append((events, report.runs[0].replica.tolist(), report.runs[0].queue_wait_s.tolist()))
    assert seen[0] == seen[1]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[ev.Event]:
    """What routers are told, in order."""
    events: list[ev.Event] = []
    handle = Dispatcher.handle

    def spy(self: Dispatcher, now: float, event: ev.Event) -> list[ev.Action]:
        events.append(event)
        return handle(self, now, event)

    monkeypatch.setattr(Dispatcher, "handle", spy)
    return events


def test_an_answer_that_reached_its_limit_may_have_been_cut_short(told: list[ev.Event]) -> None:
    base = gen.poisson(5, 20, seed=2)
    cut = np.arange(len(base)) % 2 == 1
    evaluate(
        "round_robin", replace(base, max_tokens=np.where(cut, base.output_tokens, 10_000)), "1xL40S", GOAL
    )
    natural = {int(event.request_id): event.natural for event in told if isinstance(event, ev.Ended)}
    assert natural == dict(enumerate((~cut).tolist()))


def test_routers_are_told_only_what_live_ones_are(told: list[ev.Event]) -> None:
    trace = gen.poisson(5, 20, seed=2)
    evaluate("least_requests", trace, "1xL40S", GOAL)
    ended = {e.request_id: i for i, e in enumerate(told) if isinstance(e, ev.Ended)}
    lengths = {row: int(n) for row, n in enumerate(trace.output_tokens)}
    limits = {e.max_tokens for e in told if isinstance(e, ev.Arrival)}
    assert len(limits) == 1
    assert limits.pop() > max(lengths.values())
    for i, event in enumerate(told):
        if isinstance(event, ev.Tokens):
            assert event.count == 1
        if isinstance(event, ev.Arrival):
            assert ended[event.request_id] > i
            assert event.prompt_bytes != trace.prompt_tokens[int(event.request_id)]


def test_recorded_limits_and_objectives_are_those_of_each_request() -> None:
    base = gen.poisson(5, 20, seed=2)
    rows = np.arange(len(base))
    trace = replace(
        base,
        max_tokens=np.where(rows % 2, 16, 10_000),
        ttft_slo_s=np.where(rows % 3, np.nan, 1e-6),
        tpot_slo_s=np.full(len(base), np.nan),
    )
    prepared = Prepared(trace, objectives(GOAL, trace.classes), "m", WorldSettings())
    assert [event.max_tokens for event in prepared.events[:2]] == [10_000, 16]
    assert max(prepared.output[1::2]) == 16
    assert prepared.output[::2] == base.output_tokens[::2].tolist()
    run = evaluate("round_robin", trace, "4xH100", GOAL).runs[0]
    assert not run.met[::3].any()
    assert run.met[rows % 3 > 0].all()


def test_faulty_policies_fall_back_and_are_counted() -> None:
    trace = gen.poisson(5, 30, seed=2)
    report = evaluate(route("Assign(len(replicas))"), trace, "2xL40S", GOAL)
    assert report.runs[0].quarantined
    assert sum(report.faults().values()) == 5
    assert report.runs[0].fallback.all()
    assert report.attainment() > 0


def test_rejects_are_misses_within_the_operators_share() -> None:
    trace = gen.poisson(10, 60, seed=2)
    report = evaluate(route("REJECT"), trace, "4xH100", GOAL)
    run = report.runs[0]
    share = (run.outcome == REJECTED).mean()
    assert 0.05 < share <= 0.11
    assert not run.met[run.outcome == REJECTED].any()
    assert report.attainment() == pytest.approx(1 - share, abs=0.01)


def test_holding_for_ever_ends_in_the_fallback() -> None:
    trace = gen.poisson(2, 10, seed=2)
    report = evaluate(route("HOLD"), trace, "2xH100", GOAL)
    run = report.runs[0]
    assert (run.outcome == FINISHED).all()
    assert run.fallback.all()
    assert (run.holds > 1).all()
    assert run.queue_wait_s.min() == pytest.approx(WorldSettings().dispatch.hold_max_s, abs=0.1)


def test_impatient_clients_leave_and_try_again() -> None:
    trace = gen.poisson(12, 30, seed=2)
    patient = evaluate("round_robin", trace, "1xL4", GOAL)
    assert (patient.runs[0].outcome == FINISHED).all()
    leaving = WorldSettings(clients=Clients(timeout_s=2.0))
    run = evaluate("round_robin", trace, "1xL4", GOAL, settings=leaving).runs[0]
    assert (run.outcome == ABANDONED).mean() > 0.3
    assert np.nanmax(run.ttft_s) <= 2.0
    again = WorldSettings(clients=Clients(timeout_s=2.0, retries=9, retry_after_s=3.0))
    retried = evaluate("round_robin", trace.between(0, 2), "1xL4", GOAL, settings=again).runs[0]
    late = retried.ttft_s > 2.0
    assert late.any()
    assert (retried.outcome[late] == FINISHED).all()


def test_who_was_refused_and_will_try_again_does_not_also_lose_patience() -> None:
    strict = DispatchSettings(max_reject_share=1.0)
    settings_ = WorldSettings(clients=Clients(timeout_s=0.5, retries=1, retry_after_s=2.0), dispatch=strict)
    trace = gen.poisson(5, 10, seed=2)
    run = evaluate(route("REJECT"), trace, "1xL4", GOAL, settings=settings_).runs[0]
    assert (run.outcome == REJECTED).all()
    assert (run.ended_s >= trace.arrival + 2.0).all()


def test_a_failed_replica_loses_what_had_begun_and_the_rest_is_retried() -> None:
    trace = gen.poisson(20, 20, mix=[gen.Mix(output=gen.Lengths(400, 0.3))], seed=2)
    fleet = Fleet.parse("2xL40S").with_changes([Change(at=8.0, kind="fail", replica="l40s-0")])
    run = evaluate("round_robin", trace, fleet, GOAL).runs[0]
    failed = run.outcome == FAILED
    assert 0 < failed.sum() < 0.3 * len(run)
    assert (run.replica[failed] == 0).all()
    assert not np.isnan(run.ttft_s[failed]).any()
    assert (run.attempts > 1).any()
    after = (run.arrival_s > 8.1) & ~failed
    assert (run.replica[after] == 1).all()
    assert run.replicas[0].present_s == pytest.approx(8.0, abs=0.5)


def test_draining_replicas_finish_and_take_no_more() -> None:
    trace = gen.poisson(10, 20, seed=2)
    fleet = Fleet.parse("2xL40S").with_changes([Change(at=8.0, kind="drain", replica="l40s-0")])
    run = evaluate("round_robin", trace, fleet, GOAL).runs[0]
    assert (run.outcome == FINISHED).all()
    assert (run.replica[run.arrival_s > 8.5] == 1).all()
    assert (run.replica[run.arrival_s < 8.0] == 0).any()
    assert run.replicas[0].present_s < run.replicas[1].present_s


def test_replicas_that_join_are_used() -> None:
    trace = gen.poisson(30, 20, seed=2)
    spec = replace(Fleet.parse("1xH100").replicas[0], name="late")
    fleet = Fleet.parse("1xL4").with_changes([Change(at=5.0, kind="join", replica="late", spec=spec)])
    run = evaluate("least_predicted_ttft", trace, fleet, GOAL).runs[0]
    assert (run.replica[run.arrival_s < 5] == 0).all()
    assert (run.replica[run.arrival_s > 6] == 1).mean() > 0.5


def test_nobody_there_is_a_failure_not_a_hang() -> None:
    trace = gen.poisson(2, 10, seed=2)
    fleet = Fleet.parse("1xL4").with_changes([Change(at=0.0, kind="fail", replica="l4-0")])
    run = evaluate("round_robin", trace, fleet, GOAL).runs[0]
    assert (run.outcome == FAILED).all()
    assert run.summary()["attainment"] == 0


def test_turns_wait_for_the_turn_before() -> None:
    trace = gen.sessions(1.0, 60, turns=4, think_s=3, seed=5)
    run = evaluate("consistent_hashing", trace, "1xL40S", GOAL).runs[0]
    for child in np.flatnonzero(trace.parent >= 0).tolist():
        parent = int(trace.parent[child])
        ended = run.arrival_s[parent] + run.e2e_s[parent]
        assert run.arrival_s[child] == pytest.approx(ended + trace.think_s[child])
    assert run.summary()["prefix_hit_share"] > 0.3


def test_affinity_raises_prefix_hits() -> None:
    trace = gen.sessions(4.0, 60, turns=5, think_s=3, seed=5)
    sticky, spread = (
        report.runs[0].summary()["prefix_hit_share"]
        for report in evaluate_many(["consistent_hashing", "round_robin"], trace, "4xL40S", GOAL)
    )
    assert sticky > spread + 0.1


def test_warm_up_and_work_in_flight_are_not_scored() -> None:
    trace = gen.poisson(5, 20, seed=2)
    cold = evaluate("round_robin", trace, "1xL4", GOAL, warmup_s=5.0)
    busy = [InFlight(replica="l4-0", prompt_tokens=2000, produced_tokens=10, output_tokens=400)] * 10
    warm = evaluate_many(["round_robin"], trace, "1xL4", GOAL, warmup_s=5.0, in_flight=busy)[0]
    for report in (cold, warm):
        assert len(report.runs[0]) == int((trace.arrival >= 5).sum())
    early = trace.arrival < 5
    assert warm.runs[0].ttft_s[early].mean() > cold.runs[0].ttft_s[early].mean() + 0.5


def test_more_routers_see_less_and_do_worse() -> None:
    trace = gen.poisson(10, 60, seed=2)
    one, eight = (
        evaluate(
            "least_requests", trace, "4xL40S", GOAL, loads=(0.95,), load_unit="capacity", routers=n
        ).summary()[0]
        for n in (1, 8)
    )
    assert eight["ttft_s_mean"] > one["ttft_s_mean"]


def test_requests_longer_than_any_engine_fail_and_the_rest_goes_on() -> None:
    trace = Trace.of("t", [0.0, 1.0], [200_000, 100], [5, 5])
    run = evaluate("round_robin", trace, "1xL4", GOAL).runs[0]
    assert [OUTCOMES[code] for code in run.outcome] == ["failed", "finished"]


def test_what_does_not_end_in_time_is_unfinished() -> None:
    trace = Trace.of("t", [0.0, 0.0], [100, 100], [20_000, 5])
    run = evaluate("round_robin", trace, "1xL4", GOAL, settings=WorldSettings(drain_s=5.0)).runs[0]
    assert run.outcome.tolist() == [UNFINISHED, FINISHED]
    assert not run.met[0]


def test_load_one_in_units_of_capacity_is_saturation() -> None:
    trace = gen.poisson(10, 200, seed=2)
    fleet = Fleet.parse("1xH100")
    below, above = (
        evaluate("round_robin", trace, fleet, GOAL, loads=(load,), load_unit="capacity").summary()[0]
        for load in (0.7, 1.3)
    )
    assert below["ttft_s_p95"] < 1.0
    assert above["ttft_s_p95"] > 5.0
    assert above["arrivals"] / trace.duration == pytest.approx(1.3 * capacity(fleet, trace), rel=0.05)


def test_conservation_laws_bite() -> None:
    trace = gen.poisson(5, 10, seed=2)
    world = WorldSettings()
    prepared = Prepared(trace, objectives(GOAL, trace.classes), "Llama-3.1-8B", world)

    def run() -> World:
        return World(prepared, Fleet.parse("1xL40S"), [library.load("round_robin")], world)

    outcome = run().run()
    make_run(prepared, outcome, load=1.0)
    outcome.rows.tokens[3] += 1
    with pytest.raises(ConservationError, match="row 0"):
        make_run(prepared, outcome, load=1.0)
    fast = run().run()
    fast.replicas[0].busy_s *= 0.1
    with pytest.raises(ConservationError, match="ideal hardware needs"):
        make_run(prepared, fast, load=1.0)
    backwards = run().run()
    backwards.rows.first[2] = backwards.rows.arrived[2] - 1
    with pytest.raises(ConservationError, match=r"time ran back .*row 2"):
        make_run(prepared, backwards, load=1.0)


def test_arguments_that_make_no_sense() -> None:
    trace = gen.poisson(5, 10, seed=2)
    with pytest.raises(ValueError, match="unknown GPU type 'Q7'"):
        evaluate("round_robin", trace, "2xQ7", GOAL)
    with pytest.raises(ValueError, match="is not like 2xH100"):
        evaluate("round_robin", trace, "2 of those", GOAL)
    with pytest.raises(ValueError, match="no requests"):
        evaluate("round_robin", trace.head(0), "1xH100", GOAL)
    with pytest.raises(KeyError, match="no shipped policy 'nonsense'"):
        evaluate("nonsense", trace, "1xH100", GOAL)
    with pytest.raises(PolicyError):
        evaluate("import os\n", trace, "1xH100", GOAL)
    with pytest.raises(ValueError, match="no such replica"):
        Fleet.parse("1xL4").with_changes([Change(at=1.0, kind="fail", replica="x")])


def test_a_report_as_a_data_frame() -> None:
    pd = pytest.importorskip("pandas")
    trace = gen.poisson(5, 10, mix=[gen.INTERACTIVE, gen.BATCH], seed=2)
    frame = evaluate("round_robin", trace, "1xL40S", GOAL, loads=(1.0, 2.0)).to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert set(frame["load"]) == {1.0, 2.0}
    assert set(frame["class"]) == {"interactive", "batch"}
    assert set(frame["gpu"]) == {"L40S"}


def test_objectives_come_in_several_forms() -> None:
    ready = Objectives(
        classes={"a": msgspec.convert({"ttft_s": 1.0}, type=type(objectives(GOAL, "a").of("a")))}, default="a"
    )
    assert objectives(ready, ()) is ready
    assert objectives({"x": GOAL, "y": SLO()}, ()).default == "x"
    assert objectives(GOAL, ("p", "q")).of("q").ttft_s == 1.0


def test_each_router_needs_a_policy_of_its_own() -> None:
    trace = gen.poisson(5, 10, seed=2)
    world = WorldSettings(routers=2)
    prepared = Prepared(trace, objectives(GOAL, trace.classes), "m", world)
    with pytest.raises(ValueError, match="1 compiled policies for 2 routers"):
        World(prepared, Fleet.parse("1xL4"), [compile_policy(library.source("random"), "dispatch")], world)
