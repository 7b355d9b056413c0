"""Reading the metrics of inference servers, and learning their step times."""

import random

import pytest

from autopoiesis.runtime.servers.estimate import ENOUGH_FIRSTS, ENOUGH_PAUSES, StepEstimator
from autopoiesis.runtime.servers.metrics import ServerLoad, parse

VLLM = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1e+03
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 250.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="100"} 1.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="1",num_gpu_blocks="100"} 1.0
"""
OLD_VLLM = """
vllm:num_requests_running{model_name="m"} 1.0
vllm:num_requests_waiting{model_name="m"} 0.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.5
vllm:cache_config_info{block_size="16",num_gpu_blocks="10"} 1.0
"""
SGLANG = """
sglang:num_running_reqs{model_name="m"} 7
sglang:num_queue_reqs{model_name="m"} 2
sglang:num_used_tokens{model_name="m"} 1234
sglang:max_total_num_tokens{model_name="m"} 5000
sglang:token_usage{model_name="m"} 0.2
"""
LLAMA_CPP = "llamacpp:requests_processing 2\nllamacpp:requests_deferred 1\nllamacpp:kv_cache_tokens 300\n"


@pytest.mark.parametrize(
    ("exposition", "load"),
    [
        (
            VLLM,
            ServerLoad(
                running=5,
                waiting=4,
                kv_used_tokens=1600,
                kv_capacity_tokens=3200,
                prefix_queries=1000,
                prefix_hits=250,
            ),
        ),
        (OLD_VLLM, ServerLoad(running=1, waiting=0, kv_used_tokens=80, kv_capacity_tokens=160)),
        (SGLANG, ServerLoad(running=7, waiting=2, kv_used_tokens=1234, kv_capacity_tokens=5000)),
        (LLAMA_CPP, ServerLoad(running=2, waiting=1, kv_used_tokens=300)),
        ("<html>not metrics</html>", ServerLoad()),
        ('vllm:num_requests_running{} nonsense\nvllm:cache_config_info{block_size="None"} 1', ServerLoad()),
    ],
    ids=["vllm", "old vllm", "sglang", "llama.cpp", "html", "nonsense"],
)
def test_load_figures_of_each_server(exposition: str, load: ServerLoad) -> None:
    assert parse(exposition) == load


def test_nothing_is_claimed_before_enough_was_seen() -> None:
    estimator = StepEstimator()
    for _ in range(ENOUGH_PAUSES):
        estimator.pause(0.01, kv_tokens=1000, sequences=1)
    for _ in range(ENOUGH_FIRSTS - 1):
        estimator.first(0.1, prefill_tokens=500, kv_tokens=0, sequences=1)
    assert estimator.model is None
    estimator.first(0.1, prefill_tokens=500, kv_tokens=0, sequences=1)
    assert estimator.model is not None


def test_the_law_behind_noisy_observations_is_found() -> None:
    base, prefill, kv, sequence = 0.008, 3e-5, 6e-8, 2e-5
    estimator, rng = StepEstimator(chunk_tokens=2048), random.Random(3)
    for _ in range(3000):
        tokens, running = rng.uniform(0, 300_000), rng.randint(1, 60)
        noise = rng.lognormvariate(0, 0.05)
        estimator.pause(
            (base + kv * tokens + sequence * running) * noise, kv_tokens=tokens, sequences=running
        )
        prompt = rng.randint(1, 8000)
        steps = -(-prompt // 2048)
        seconds = steps * (base + kv * tokens + sequence * running) + prefill * prompt
        estimator.first(seconds * noise, prefill_tokens=prompt, kv_tokens=tokens, sequences=running)
    model = estimator.model
    assert model is not None
    assert model.base_s == pytest.approx(base, rel=0.25)
    assert model.prefill_token_s == pytest.approx(prefill, rel=0.1)
    assert model.kv_token_s == pytest.approx(kv, rel=0.25)
    assert model.sequence_s >= 0


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_a_batch_that_is_always_full_does_not_let_the_model_run_away(noise: float) -> None:
    """What each part of a step costs cannot be told then; what the step costs can."""
    estimator, rng = StepEstimator(chunk_tokens=512), random.Random(1)
    for step in range(3000):
        prompt = rng.choice((64, 120, 256, 400)) if step % 4 == 0 else 0
        decoding, tokens = 8 - (prompt > 0), rng.gauss(3600, 300)
        seconds = (0.05 + 4e-4 * prompt + 0.002 * decoding) * rng.lognormvariate(0, noise)
        if prompt:
            estimator.first(seconds, prefill_tokens=prompt, kv_tokens=tokens, sequences=decoding)
        else:
            estimator.pause(seconds, kv_tokens=tokens, sequences=decoding)
        if step > 500:
            model = estimator.model
            assert model is not None
            assert model.base_s + 8 * model.sequence_s + 3600 * model.kv_token_s == pytest.approx(
                0.066, rel=0.2
            )
            assert model.prefill_token_s == pytest.approx(4e-4, rel=0.3)


def test_what_was_not_seen_for_long_keeps_its_cost_or_none() -> None:
    estimator = StepEstimator()
    for _ in range(ENOUGH_FIRSTS):
        estimator.first(0.01 + 100 * 1e-4, prefill_tokens=100, kv_tokens=0, sequences=0)
    for _ in range(200_000):
        estimator.pause(0.011, kv_tokens=0, sequences=1)
    model = estimator.model
    assert model is not None
    assert model.prefill_token_s <= 1.1e-4
