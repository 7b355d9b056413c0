import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.contracts.messages.fleet import StepModel
from autopoiesis.dispatch.latency import Latency

STEP = StepModel(base_s=0.01, prefill_token_s=1e-4, kv_token_s=1e-7, sequence_s=1e-4, chunk_tokens=1000)
COUNTS = st.integers(0, 300)
TOKENS = st.integers(0, 200_000)


def latency(
    *,
    running: int = 0,
    waiting: int = 0,
    queued: int = 0,
    kv: int = 0,
    room: int = 0,
    limit: int = 0,
    rate: float = 0.0,
) -> Latency:
    model = Latency()
    model.update(STEP, running, waiting, queued, kv, room, limit, 100.0, rate)
    return model


def test_an_idle_replica_takes_the_steps_of_the_prompt() -> None:
    assert latency().raw_ttft(500) == pytest.approx(0.01 + 500e-4)
    assert latency().raw_ttft(2500) == pytest.approx(3 * 0.01 + 2500e-4)


def test_prompts_before_it_come_first_and_decodes_share_the_steps() -> None:
    step = 0.01 + 8 * 1e-4 + 5000 * 1e-7
    busy = latency(running=8, queued=1500, kv=5000)
    assert busy.raw_ttft(500) == pytest.approx(0.5 * step + 3 * step + 2000e-4)


def test_a_full_batch_waits_for_sequences_to_end() -> None:
    step = 0.01 + 10 * 1e-4
    full, roomy = latency(running=10, limit=10), latency(running=10, limit=11)
    assert full.raw_ttft(100) - roomy.raw_ttft(100) == pytest.approx(100 * step / 10)


def test_a_full_kv_cache_waits_for_its_release() -> None:
    step = 0.01 + 10 * 1e-4 + 9000 * 1e-7
    roomy, full = latency(running=10, kv=9000, room=20_000), latency(running=10, kv=9000, room=9500)
    assert roomy.raw_ttft(1400) == latency(running=10, kv=9000).raw_ttft(1400)
    assert full.raw_ttft(1400) - roomy.raw_ttft(1400) == pytest.approx(900 / (9000 / 10) * 100 * step / 10)


def test_pace_counts_the_new_sequence_and_the_prompts_in_between() -> None:
    alone = latency().raw_tpot(1000)
    assert alone == pytest.approx(0.01 + 1e-4 + 1e-7 * (1000 + 50))
    assert latency(rate=2000.0).raw_tpot(1000) == pytest.approx(alone / 0.8)
    assert latency(rate=1e9).raw_tpot(1000) == pytest.approx(alone / 0.2)


@given(COUNTS, COUNTS, TOKENS, TOKENS, TOKENS, COUNTS, st.floats(0, 1e6), TOKENS, TOKENS)
def test_predictions_are_finite_and_grow_with_the_prompt(
    running: int,
    waiting: int,
    queued: int,
    kv: int,
    room: int,
    limit: int,
    rate: float,
    prompt: int,
    more: int,
) -> None:
    model = latency(running=running, waiting=waiting, queued=queued, kv=kv, room=room, limit=limit, rate=rate)
    for predict in (model.raw_ttft, model.raw_tpot):
        assert 0 < predict(prompt) <= predict(prompt + more) < math.inf


@given(COUNTS, TOKENS, COUNTS, TOKENS)
def test_a_fuller_replica_is_not_faster(running: int, queued: int, more: int, more_queued: int) -> None:
    light, heavy = (
        latency(running=running, queued=queued, kv=1000),
        latency(running=running + more, queued=queued + more_queued, kv=1000),
    )
    assert light.raw_ttft(500) <= heavy.raw_ttft(500) * 1.000001
