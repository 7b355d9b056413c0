"""Prefill and decode on replicas of their own."""

from dataclasses import replace

import numpy as np
import pytest

from autopoiesis.simulator.api import SLO, Change, Fleet, Run, capacity, evaluate
from autopoiesis.simulator.requests.outcome import FAILED, FINISHED
from autopoiesis.simulator.transfer import FAR_SETUP_S, NEAR_SETUP_S, transfer_seconds
from autopoiesis.simulator.workload import Trace
from autopoiesis.simulator.workload import generate as gen

GOAL = SLO(ttft_s=1.0, tpot_s=0.05)
SPLIT = """API = 1
def prioritize(request, ctx):
    return request.arrival
def route(request, replicas, ctx):
    best = 0
    for replica in replicas:
        if replica.role != "decode" and replica.queued_prefill_tokens < replicas[best].queued_prefill_tokens:
            best = replica.index
    return Assign(best)
def place_decode(request, replicas, ctx):
    best = len(replicas) - 1
    for replica in replicas:
        if replica.role == "decode" and replica.transfer_time < 1.0 and replica.inflight < replicas[best].inflight:
            best = replica.index
    return Assign(best)
"""
CODE = gen.Mix(prompt=gen.Lengths(2000, 0.5), output=gen.Lengths(150, 0.5))


def split(
    trace: Trace, fleet: Fleet | str = "1xH100:prefill + 2xL40S:decode", policy: str = SPLIT, **more: object
) -> Run:
    return evaluate(policy, trace, fleet, GOAL, **more).runs[0]  # type: ignore[arg-type]


def test_prompts_are_computed_here_and_go_on_there() -> None:
    trace = gen.poisson(4, 60, mix=[CODE], seed=3)
    run = split(trace)
    assert (run.outcome == FINISHED).all()
    long = run.tokens > 1
    assert np.isin(run.replica[long], [1, 2]).all()
    prefill, *decodes = run.replicas
    assert prefill.tokens_out == len(trace)
    assert sum(totals.tokens_out for totals in decodes) == trace.output_tokens.sum() - len(trace)
    assert sum(totals.layer_tokens for totals in decodes) == trace.output_tokens.sum() - len(trace)
    expected = run.prompt_tokens * 131_072 / 40e9 + FAR_SETUP_S + 0.002
    assert (run.transfer_s[long] >= expected[long] - 1e-12).all()
    assert np.median(run.transfer_s[long] - expected[long]) < 0.001


def test_decoding_alone_is_steadier_than_beside_prompts() -> None:
    trace = gen.poisson(8, 60, mix=[CODE], seed=3)
    apart = split(trace, "2xH100:prefill + 2xH100:decode")
    mixed = split(trace, "4xH100", "least_requests")
    assert apart.summary()["itl_s_p99"] < mixed.summary()["itl_s_p99"]


def test_policies_that_know_nothing_of_it_are_helped_by_the_fallback() -> None:
    trace = gen.poisson(4, 30, mix=[CODE], seed=3)
    run = split(trace, policy="round_robin")
    assert (run.outcome == FINISHED).all()
    assert np.isin(run.replica, [1, 2]).all()


def test_without_anyone_to_decode_the_prompt_stays() -> None:
    trace = gen.poisson(4, 30, mix=[CODE], seed=3)
    run = split(trace, "2xH100:prefill", "round_robin")
    assert (run.outcome == FINISHED).all()
    assert (run.transfer_s == 0).all()


def test_what_decodes_on_a_lost_replica_is_lost() -> None:
    trace = gen.poisson(6, 40, mix=[CODE], seed=3)
    run = split(trace, changes=[Change(at=20.0, kind="fail", replica="l40s-1")])
    failed = run.outcome == FAILED
    assert failed.any()
    assert (run.replica[failed] == 1).all()
    assert (run.outcome[~failed] == FINISHED).all()
    assert (run.replica[(run.arrival_s > 20.5) & (run.tokens > 1)] == 2).all()


def test_what_is_computed_on_a_lost_replica_is_computed_again() -> None:
    trace = gen.poisson(6, 40, mix=[CODE], seed=3)
    fleet = "2xL4:prefill + 1xH100:decode"
    run = split(trace, fleet, changes=[Change(at=20.0, kind="fail", replica="l4-0")])
    again = (run.attempts > 1) & (run.outcome == FINISHED)
    assert again.any()
    assert (run.replica[again & (run.tokens > 1)] == 2).all()


def test_a_draining_decoder_still_takes_what_is_on_its_way() -> None:
    slow = Fleet.parse("1xH100:prefill + 1xL40S:decode + 1xL40S:decode")
    slow = replace(slow, replicas=tuple(replace(spec, network_bandwidth=1e8) for spec in slow.replicas))
    trace = gen.poisson(0.2, 60, mix=[CODE], seed=3)
    run = split(trace, slow, changes=[Change(at=20.0, kind="drain", replica="l40s-1")])
    assert (run.outcome == FINISHED).all()
    assert np.median(run.transfer_s[run.tokens > 1]) > 1.0


def test_what_a_transfer_takes() -> None:
    source, far, far_too = Fleet.parse("1xH100/tp2:prefill + 1xL40S:decode + 1xL40S").replicas
    near = replace(far, node=source.node)
    assert transfer_seconds(1000, source, far) == pytest.approx((FAR_SETUP_S, 1000 * 131_072 / 40e9))
    assert transfer_seconds(1000, source, near) == pytest.approx(
        (NEAR_SETUP_S, 1000 * 131_072 / (0.6 * 32e9))
    )
    with pytest.raises(ValueError, match="kv_token_bytes and bandwidths"):
        transfer_seconds(1000, replace(source, kv_token_bytes=0), far_too)


def test_capacity_is_the_narrower_of_the_two_stages() -> None:
    trace = gen.poisson(4, 60, mix=[CODE], seed=3)
    both, more_decode = (
        capacity(Fleet.parse(text), trace)
        for text in ("1xL4:prefill + 1xH100:decode", "1xL4:prefill + 4xH100:decode")
    )
    assert both == pytest.approx(more_decode)
    assert capacity(Fleet.parse("2xH100:prefill + 4xH100:decode"), trace) > 2 * both
