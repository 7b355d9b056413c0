"""Affine step models from sampled steps."""

import random

import pytest

from autopoiesis.contracts.messages.fleet import StepModel
from autopoiesis.contracts.messages.telemetry import StepRecord
from autopoiesis.simulator.calibrate import NotIdentifiableError, fit_affine
from autopoiesis.simulator.fleet import steps_of

BASE, PREFILL, KV, SEQUENCE = 8e-3, 1.5e-5, 2e-7, 4e-4


def sampled(count: int, *, noise: float, disturbed: float, seed: int = 0) -> list[StepRecord]:
    rng = random.Random(seed)
    records = []
    for _ in range(count):
        prefill = rng.choice((0, 0, 0, rng.randint(1, 512)))
        sequences, kv_tokens = rng.randint(1, 16), rng.randint(0, 20_000)
        duration = BASE + PREFILL * prefill + KV * kv_tokens + SEQUENCE * sequences
        duration *= rng.lognormvariate(0, noise)
        if rng.random() < disturbed:  # the machine paused, or two steps were noticed at once
            duration *= rng.choice((5, 0.05))
        records.append(
            StepRecord(
                at_unix_s=0.0,
                duration_s=duration,
                prefill_tokens=prefill,
                decode_sequences=sequences,
                kv_tokens=kv_tokens,
            )
        )
    return records


def test_what_made_the_steps_is_found_though_some_were_disturbed() -> None:
    fit = fit_affine(sampled(600, noise=0.05, disturbed=0.1))
    assert fit.steps.base == pytest.approx(BASE, rel=0.1)
    assert fit.steps.per_prefill_token == pytest.approx(PREFILL, rel=0.1)
    assert fit.steps.per_kv_token == pytest.approx(KV, rel=0.2)
    assert fit.steps.per_sequence == pytest.approx(SEQUENCE, rel=0.1)
    assert fit.error < 0.06


def test_the_level_is_that_of_all_steps_though_long_ones_are_sampled_more_often() -> None:
    """The clock stops at random moments and finds the longer ones the more often, as engines' sampling does."""
    rng = random.Random(1)
    steps = sampled(20_000, noise=0.4, disturbed=0.0)
    fit = fit_affine(rng.choices(steps, [step.duration_s for step in steps], k=2_000))
    modelled = sum(
        fit.steps.step([(s.prefill_tokens, 0)], s.decode_sequences, s.kv_tokens, s.decode_sequences)
        for s in steps
    )
    assert modelled == pytest.approx(sum(step.duration_s for step in steps), rel=0.04)


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(NotIdentifiableError, match="3 steps, at least 20"):
        fit_affine(sampled(3, noise=0.0, disturbed=0.0))


def test_a_learned_model_that_puts_all_on_the_sequences_can_be_simulated() -> None:
    learned = StepModel(base_s=0.0, prefill_token_s=1e-4, kv_token_s=0.0, sequence_s=0.005, chunk_tokens=2048)
    steps = steps_of("a model that nobody knows", "a GPU that nobody knows", carried=learned)
    assert steps.step([], 4, 1000, 4) == pytest.approx(0.02, rel=1e-3)
