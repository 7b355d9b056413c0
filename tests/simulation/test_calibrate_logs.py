"""Per-request logs: known parameters come back, hits stay apart, what a log does not show is refused."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from autopoiesis.simulator.calibrate import (
    EngineSetup,
    NotIdentifiableError,
    RequestSample,
    fit_requests,
    play,
)
from autopoiesis.simulator.engine import EngineConfig
from autopoiesis.simulator.hardware import Efficiency, gpu
from autopoiesis.simulator.models import model
from autopoiesis.simulator.steptime import StepTime

L40S, QWEN = gpu("L40S"), model("Qwen3-8B")
SETUP = EngineSetup(
    gpu=L40S,
    model=QWEN,
    config=EngineConfig(kv_capacity_tokens=120_000, max_batched_tokens=2048, max_running=64),
)
TRUTH = replace(
    L40S.efficiency,
    matmul=0.5,
    weights=0.65,
    decode_attention=0.7,
    prefill_attention=0.4,
    step_overhead_s=0.002,
)

L40S_WITH: dict[str, Callable[[float], Efficiency]] = {
    "matmul": lambda share: replace(L40S.efficiency, matmul=share),
    "weights": lambda share: replace(L40S.efficiency, weights=share),
    "decode_attention": lambda share: replace(L40S.efficiency, decode_attention=share),
}


def arrivals(
    count: int, seed: int, *, prompt: int = 1500, output: int = 120, gap: float = 0.25
) -> list[RequestSample]:
    rng, now, requests = random.Random(seed), 0.0, []
    for _ in range(count):
        now += rng.expovariate(1 / gap)
        sizes = rng.randint(1, prompt), rng.randint(1, output)
        requests.append(
            RequestSample(
                arrival_s=now,
                prompt_tokens=sizes[0],
                output_tokens=sizes[1],
                first_token_s=now + 1,
                end_s=now + 1,
            )
        )
    return requests


def measured(
    requests: list[RequestSample],
    efficiency: Efficiency,
    *,
    overhead: float = 0.0,
    noise: float = 0.0,
    seed: int = 1,
) -> list[RequestSample]:
    """The log that an engine of that efficiency would write, each request's times off by its own noise."""
    rng = random.Random(seed)
    times = play(requests, StepTime(L40S, QWEN, 1, efficiency), SETUP.config, request_overhead_s=overhead)
    log = []
    for request, (first, end) in zip(requests, times, strict=True):
        factor = max(0.5, rng.gauss(1, noise))
        ttft = (first - request.arrival_s) * factor
        rest = (end - first) * factor
        at = request.arrival_s + ttft
        log.append(replace(request, first_token_s=at, end_s=at + rest))
    return log


def test_known_engines_come_back_from_half_a_noisy_log() -> None:
    """Of each log its efficiency, and on the average of them the times of the other half."""
    errors: list[float] = []
    for seed in (1, 2):
        log = measured(arrivals(160, seed), TRUTH, overhead=0.03, noise=0.02, seed=seed)
        fit = fit_requests(SETUP, log, fitted_to=range(80))
        found = {p.name: p.value for p in fit.parameters}
        assert found["matmul"] == pytest.approx(TRUTH.matmul, rel=0.1)
        assert fit.request_overhead_s == pytest.approx(0.03, abs=0.02)
        assert fit.observations == 80
        steps, late = StepTime(L40S, QWEN, 1, fit.efficiency), fit.request_overhead_s
        times = play(log, steps, SETUP.config, request_overhead_s=late)
        truth = measured(log, TRUTH, overhead=0.03)
        errors += [
            abs((t.end_s - r.arrival_s) / (r.end_s - r.arrival_s) - 1)
            for t, r in zip(times[80:], truth[80:], strict=True)
        ]
    assert sum(errors) / len(errors) < 0.03


def test_measured_times_outside_the_fitted_ones_do_not_matter() -> None:
    log = measured(arrivals(80, 4), TRUTH)
    spoilt = [
        replace(r, first_token_s=r.first_token_s + 50, end_s=r.end_s + 50) if i >= 40 else r
        for i, r in enumerate(log)
    ]
    assert fit_requests(SETUP, log, fitted_to=range(40)) == fit_requests(SETUP, spoilt, fitted_to=range(40))


def test_prefix_hits_do_not_pass_for_fast_prefill() -> None:
    """Most of every second prompt was cached: taken for cold prompts, they make products look faster than they are."""
    truth = replace(L40S.efficiency, matmul=0.4)
    cold = arrivals(120, 5, prompt=4000, output=20, gap=0.5)
    computed = [
        replace(r, prompt_tokens=max(1, r.prompt_tokens // 8)) if i % 2 else r for i, r in enumerate(cold)
    ]
    log = [
        replace(seen, prompt_tokens=r.prompt_tokens, cached_tokens=r.prompt_tokens - part.prompt_tokens)
        for seen, r, part in zip(measured(computed, truth, noise=0.01), cold, computed, strict=True)
    ]
    fit = fit_requests(SETUP, log, parameters=["matmul"])
    assert fit.efficiency.matmul == pytest.approx(0.4, rel=0.05)
    assert fit.observations == sum(not r.cached_tokens for r in log)
    assert fit.hit_error is not None
    assert fit.hit_error < 0.05
    assert fit.hit_overhead_s == pytest.approx(0.0, abs=0.01)
    naive = fit_requests(SETUP, [replace(r, cached_tokens=0) for r in log], parameters=["matmul"])
    assert naive.efficiency.matmul > 0.45
    assert naive.hit_error is None


def test_known_blocks_hit_the_simulated_cache() -> None:
    config = replace(SETUP.config, prefix_block_tokens=16)
    shared = tuple(range(60))
    first, again = (
        RequestSample(
            arrival_s=at,
            prompt_tokens=1000,
            output_tokens=10,
            first_token_s=at + 1,
            end_s=at + 2,
            block_hashes=shared,
        )
        for at in (0.0, 10.0)
    )
    times = play([first, again], StepTime(L40S, QWEN), config)
    assert times[1].first_token_s - 10 < 0.5 * times[0].first_token_s


def test_asynchronous_scheduling_admits_one_step_later() -> None:
    requests = arrivals(30, 6, gap=0.1)
    steps = StepTime(L40S, QWEN)
    planned, at_once = (play(requests, steps, SETUP.config, async_scheduling=flag) for flag in (True, False))
    waits = [a.first_token_s - b.first_token_s for a, b in zip(planned, at_once, strict=True)]
    assert waits[0] == 0
    assert sum(waits) > 0


@pytest.mark.parametrize("name", sorted(L40S_WITH))
def test_a_worse_efficiency_never_makes_a_log_faster(name: str) -> None:
    requests = arrivals(60, 7)
    ends = []
    for share in (0.4, 0.6, 0.8, 1.0):
        steps = StepTime(L40S, QWEN, 1, L40S_WITH[name](share))
        ends.append(sum(t.end_s for t in play(requests, steps, SETUP.config)))
    assert ends == sorted(ends, reverse=True)


def test_short_prompts_cannot_give_matmul() -> None:
    log = measured(arrivals(60, 8, prompt=12, gap=2.0), TRUTH, noise=0.02)
    with pytest.raises(NotIdentifiableError, match="cannot fit matmul: the data hardly depends on it"):
        fit_requests(SETUP, log, parameters=["matmul"])


def test_single_token_answers_cannot_give_decode_parameters() -> None:
    log = measured(arrivals(60, 9, output=1), TRUTH, noise=0.02)
    with pytest.raises(
        NotIdentifiableError, match="cannot fit weights: no request has more than one output token"
    ):
        fit_requests(SETUP, log, parameters=["weights"])
    assert "decode_attention" in fit_requests(SETUP, log).refused


def test_too_few_requests_are_refused() -> None:
    with pytest.raises(NotIdentifiableError, match="19 requests without prefix hits, at least 20"):
        fit_requests(SETUP, measured(arrivals(19, 1), TRUTH))


def test_bad_input_is_named() -> None:
    log = measured(arrivals(30, 1), TRUTH)
    with pytest.raises(ValueError, match="unknown parameters"):
        fit_requests(SETUP, log, parameters=["speed"])
    with pytest.raises(ValueError, match="request 3: arrival, first token and end"):
        fit_requests(SETUP, [*log[:3], replace(log[3], end_s=0.0), *log[4:]])
    with pytest.raises(ValueError, match="request 0: cached_tokens"):
        fit_requests(SETUP, [replace(log[0], cached_tokens=10**6), *log[1:]])
