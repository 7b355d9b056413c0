"""From single engine steps to heartbeats' figures."""

import pytest

from autopoiesis.worker.engines.vllm.steps import StepWatch


def test_a_busy_engines_steps_last_from_end_to_end_and_the_first_since_it_was_scheduled() -> None:
    watch = StepWatch(chunk_tokens=512, kv_capacity_tokens=1000, sample_s=0.0)
    for now, scheduled, goes_on in (
        (10.0, 9.7, True),
        (10.2, 10.1, True),
        (10.5, 0.0, False),
        (20.0, 0.0, False),
        (30.0, 29.6, True),
    ):
        watch.step(
            now,
            1e9 + now,
            scheduled_at=scheduled,
            prefill_tokens=7,
            decode_sequences=3,
            kv_share=0.25,
            goes_on=goes_on,
        )
    records = watch.take()
    assert [record.duration_s for record in records] == pytest.approx([0.3, 0.2, 0.3, 0.4])
    assert (records[0].prefill_tokens, records[0].decode_sequences, records[0].kv_tokens) == (7, 3, 250)
    assert watch.take() == ()


def test_samples_are_taken_at_most_so_often() -> None:
    watch = StepWatch(chunk_tokens=512, kv_capacity_tokens=1000, sample_s=1.0)
    for i in range(100):
        watch.step(
            5.0 + i * 0.1,
            0.0,
            scheduled_at=4.9,
            prefill_tokens=0,
            decode_sequences=1,
            kv_share=0.0,
            goes_on=True,
        )
    assert len(watch.take()) == pytest.approx(10, abs=1)


def test_the_step_model_is_learned_from_steps() -> None:
    watch = StepWatch(chunk_tokens=512, kv_capacity_tokens=100_000, sample_s=1.0)
    now = 0.0
    for i in range(3000):
        prefill = (i % 7) * 40 if i % 3 == 0 else 0
        sequences, share = 1 + i % 11, (i % 13) / 13
        duration = 0.01 + 2e-5 * prefill + 1e-7 * share * 100_000 + 3e-4 * sequences
        now += duration
        watch.step(
            now,
            now,
            scheduled_at=now - duration,
            prefill_tokens=prefill,
            decode_sequences=sequences,
            kv_share=share,
            goes_on=True,
        )
    learned = watch.model
    assert learned is not None
    assert learned.base_s == pytest.approx(0.01, rel=0.1)
    assert learned.prefill_token_s == pytest.approx(2e-5, rel=0.1)
    assert learned.kv_token_s == pytest.approx(1e-7, rel=0.1)
    assert learned.sequence_s == pytest.approx(3e-4, rel=0.1)
