"""Known efficiencies come back from noisy steps; what the steps do not show is refused."""

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from autopoiesis.contracts.messages.telemetry import StepRecord
from autopoiesis.simulator.calibrate import NotIdentifiableError, fit_steps
from autopoiesis.simulator.hardware import Efficiency, gpu
from autopoiesis.simulator.models import model
from autopoiesis.simulator.steptime import StepTime

H100, LLAMA = gpu("H100"), model("Llama-3.1-8B")
SHARES = ("matmul", "weights", "prefill_attention", "decode_attention")


def record(steps: StepTime, prefill: int, decodes: int, kv: int, factor: float = 1.0) -> StepRecord:
    chunks = [(prefill, 0)] if prefill else []
    took = steps.step(chunks, decodes, kv, decodes + len(chunks)) * factor
    return StepRecord(
        at_unix_s=0.0, duration_s=took, prefill_tokens=prefill, decode_sequences=decodes, kv_tokens=kv
    )


def mixed_steps(
    efficiency: Efficiency, seed: int, noise: float = 0.02, outliers: float = 0.03
) -> list[StepRecord]:
    """Prompt chunks of all sizes, decodes from one sequence to a full batch, a few steps that hung."""
    rng, steps = random.Random(seed), StepTime(H100, LLAMA, 1, efficiency)
    records = []
    for number in range(240):
        factor = rng.gauss(1, noise) * (3 if rng.random() < outliers else 1)
        decodes = rng.choice([1, 8, 32, 128, 256])
        kv = decodes * rng.randint(200, 6000)
        prefill = rng.choice([64, 256, 1024, 4096, 16_384]) if number % 2 else 0
        records.append(record(steps, prefill, decodes, kv, factor))
    return records


@settings(
    max_examples=12,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    st.tuples(*[st.floats(0.4, 0.95)] * len(SHARES)),
    st.floats(0.0, 0.004),
    st.integers(0, 2**32),
)
def test_known_efficiencies_come_back(shares: tuple[float, ...], overhead: float, seed: int) -> None:
    matmul, weights, prefill, decode = shares
    truth = replace(
        H100.efficiency,
        matmul=matmul,
        weights=weights,
        prefill_attention=prefill,
        decode_attention=decode,
        step_overhead_s=overhead,
    )
    fit = fit_steps(H100, LLAMA, mixed_steps(truth, seed))
    assert {p.name for p in fit.parameters} >= {"matmul", "decode_attention"}
    for parameter in fit.parameters:
        expected = getattr(truth, parameter.name)
        assert parameter.low <= parameter.value <= parameter.high
        if not fit.refused:
            width = parameter.high - parameter.low
            assert parameter.value == pytest.approx(expected, abs=2 * width + 0.02 * expected)
    fitted, true = (StepTime(H100, LLAMA, 1, eff) for eff in (fit.efficiency, truth))
    for work in ([], 64, 100_000, 64), ([(2048, 0)], 32, 30_000, 33), ([(512, 1000)], 0, 0, 1):
        assert fitted.step(*work) == pytest.approx(true.step(*work), rel=0.03)


def test_intervals_contain_the_truth_about_as_often_as_they_say() -> None:
    truth = replace(H100.efficiency, matmul=0.6, decode_attention=0.7)
    inside = 0
    for seed in range(20):
        fit = fit_steps(H100, LLAMA, mixed_steps(truth, seed, outliers=0.0))
        found = {p.name: p for p in fit.parameters}["matmul"]
        inside += found.low <= 0.6 <= found.high
    assert inside >= 16


def test_decode_steps_alone_cannot_give_matmul() -> None:
    steps = StepTime(H100, LLAMA)
    records = [record(steps, 0, n, n * 1000) for n in (1, 4, 16, 32, 64, 100) * 4]
    with pytest.raises(
        NotIdentifiableError, match=r"cannot fit matmul: fewer than 8 prefill-bound steps"
    ) as caught:
        fit_steps(H100, LLAMA, records, parameters=["matmul"])
    assert caught.value.parameter == "matmul"
    assert "the largest has 100" in caught.value.reason


def test_decode_steps_alone_cannot_tell_weights_from_overhead() -> None:
    steps = StepTime(H100, LLAMA)
    records = [
        record(steps, 0, n, n * 1000 + 10 * i, 1 + 0.01 * (i % 5)) for i, n in enumerate((1, 4, 16, 32) * 10)
    ]
    with pytest.raises(NotIdentifiableError, match="cannot be told apart from that of"):
        fit_steps(H100, LLAMA, records, parameters=["weights", "step_overhead_s"])
    kept = fit_steps(H100, LLAMA, records)
    assert {"weights", "step_overhead_s"} & set(kept.refused)
    assert set(kept.refused) >= {"matmul", "prefill_attention"}
    for name in kept.refused:
        assert getattr(kept.efficiency, name) == getattr(H100.efficiency, name)


def test_steps_without_context_cannot_give_decode_attention() -> None:
    steps = StepTime(H100, LLAMA)
    records = [record(steps, 0, n, n) for n in (1, 8, 64, 200) * 5]
    with pytest.raises(NotIdentifiableError, match="decode_attention: fewer than 8 decode steps"):
        fit_steps(H100, LLAMA, records, parameters=["decode_attention"])


def test_no_fit_beats_the_roofline() -> None:
    """Nearly perfect hardware, measured a little too fast."""
    perfect = Efficiency(1.0, 1.0, 1.0, 1.0, attention_ramp=0, layer_overhead_s=0, step_overhead_s=0.0)
    fit = fit_steps(H100, LLAMA, [record_scaled(r, 0.95) for r in mixed_steps(perfect, 5)])
    assert all(getattr(fit.efficiency, name) <= 1 for name in SHARES)
    assert all(p.high <= 1 for p in fit.parameters if p.name in SHARES)
    assert fit.efficiency.matmul == pytest.approx(1.0, abs=0.01)


def test_steps_of_another_engine_are_refused() -> None:
    records = [record_scaled(r, 0.3) for r in mixed_steps(H100.efficiency, 5)]
    with pytest.raises(
        ValueError, match=r"steps are faster than 1 x H100 can run Llama-3\.1-8B: is it another GPU"
    ):
        fit_steps(H100, LLAMA, records)


def record_scaled(step: StepRecord, factor: float) -> StepRecord:
    return StepRecord(
        at_unix_s=step.at_unix_s,
        duration_s=step.duration_s * factor,
        prefill_tokens=step.prefill_tokens,
        decode_sequences=step.decode_sequences,
        kv_tokens=step.kv_tokens,
    )


def test_slower_steps_never_raise_an_efficiency() -> None:
    records = mixed_steps(replace(H100.efficiency, matmul=0.7), 3)
    before = fit_steps(H100, LLAMA, records)
    after = fit_steps(H100, LLAMA, [record_scaled(r, 1.2) for r in records])
    for name in ("matmul", "decode_attention"):
        assert getattr(after.efficiency, name) < getattr(before.efficiency, name)


def test_same_data_same_fit() -> None:
    records = mixed_steps(H100.efficiency, 8)
    assert fit_steps(H100, LLAMA, records) == fit_steps(H100, LLAMA, records)


def test_bad_input_is_named() -> None:
    good = mixed_steps(H100.efficiency, 1)
    with pytest.raises(ValueError, match=r"steps cannot give \['request_overhead_s'\]"):
        fit_steps(H100, LLAMA, good, parameters=["request_overhead_s"])
    with pytest.raises(ValueError, match="impossible step"):
        fit_steps(H100, LLAMA, [*good, record_scaled(good[0], 0.0)])
    with pytest.raises(NotIdentifiableError, match="fewer than 8"):
        fit_steps(H100, LLAMA, good[:3])
