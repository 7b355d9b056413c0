"""Fit to sampled engine steps.

A sampled step says how many prompt tokens it computed, not after which prefix: steps of traffic that hits the prefix cache look
like cold ones with fewer tokens, which is what they cost but for the attention on the prefix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from autopoiesis.contracts.messages.telemetry import StepRecord
from autopoiesis.simulator.calibrate.fitting import Fit, Vector, solve, with_values
from autopoiesis.simulator.hardware import Efficiency, Gpu
from autopoiesis.simulator.models import ModelShape
from autopoiesis.simulator.steptime import StepTime

STEP_PARAMETERS: Final = ("matmul", "weights", "prefill_attention", "decode_attention", "step_overhead_s")
TOO_FAST: Final = 0.1
"""Share of steps beyond the roofline above which the data cannot be of this engine."""
ENOUGH: Final = 8
"""Steps of a kind below which nothing is said about it."""


def fit_steps(
    gpu: Gpu,
    model: ModelShape,
    records: Sequence[StepRecord],
    *,
    tp: int = 1,
    efficiency: Efficiency | None = None,
    parameters: Sequence[str] | None = None,
    seed: int = 0,
) -> Fit:
    """Efficiencies from sampled steps, the search starting at `efficiency` (by default the GPU's).

    With `parameters` exactly these are fitted or refused; without, whatever the records identify. Raises
    `NotIdentifiableError` naming a parameter and the reason, `ValueError` for impossible records, unknown names, and where many
    steps are faster than the hardware allows.
    """
    start = efficiency or gpu.efficiency
    names = tuple(parameters or STEP_PARAMETERS)
    if unknown := set(names) - set(STEP_PARAMETERS):
        raise ValueError(f"steps cannot give {sorted(unknown)}; they can give {', '.join(STEP_PARAMETERS)}")
    for record in records:
        if record.duration_s <= 0 or record.prefill_tokens + record.decode_sequences < 1:
            raise ValueError(f"impossible step: {record}; it must last longer than 0 s and compute a token")
    _check_roofline(StepTime(gpu, model, tp, start), records)
    measured = np.log([record.duration_s for record in records])

    def residuals(values: Mapping[str, float]) -> Vector:
        steps = StepTime(gpu, model, tp, with_values(start, values))
        return np.array([math.log(_predicted(steps, record)) for record in records]) - measured

    refused = _unseen(StepTime(gpu, model, tp, start), records)
    return solve(residuals, start, names, refused, required=parameters or (), seed=seed)


def _work(record: StepRecord) -> tuple[list[tuple[int, int]], int, int, int]:
    chunks = [(record.prefill_tokens, 0)] if record.prefill_tokens else []
    return chunks, record.decode_sequences, record.kv_tokens, record.decode_sequences + len(chunks)


def _predicted(steps: StepTime, record: StepRecord) -> float:
    return steps.step(*_work(record))


def _check_roofline(steps: StepTime, records: Sequence[StepRecord]) -> None:
    impossible = sum(record.duration_s < 0.9 * steps.lower_bound(*_work(record)) for record in records)
    if impossible > TOO_FAST * len(records):
        raise ValueError(
            f"{impossible} of {len(records)} steps are faster than {steps.tp} x {steps.gpu.name} can run {steps.model.name}: "
            "is it another GPU, model or tp, or are prefix hits counted as computed?"
        )


def _unseen(steps: StepTime, records: Sequence[StepRecord]) -> dict[str, str]:
    """Parameters for which the kind of step that they decide is missing."""
    eff, gpu, shape = steps.efficiency, steps.gpu, steps.model
    per_token = shape.active_params / shape.layer_params_read(1)
    knee = gpu.peak_flops * eff.matmul * shape.dtype_bytes / (2 * gpu.bandwidth * eff.weights * per_token)
    tokens = [record.prefill_tokens + record.decode_sequences for record in records]
    decodes = [r for r in records if r.decode_sequences and not r.prefill_tokens]
    read = sum(r.kv_tokens * steps.per_kv_token >= 0.03 * r.duration_s for r in decodes)
    prompts = sum(record.prefill_tokens > 0 for record in records)
    refused = {}
    if sum(count > knee for count in tokens) < ENOUGH:
        refused["matmul"] = (
            f"fewer than {ENOUGH} prefill-bound steps: computing decides steps above {knee:.0f} tokens, "
            f"the largest has {max(tokens, default=0)}"
        )
    if sum(count < knee for count in tokens) < ENOUGH:
        refused["weights"] = (
            f"fewer than {ENOUGH} steps below {knee:.0f} tokens, which reading weights decides"
        )
    if prompts < ENOUGH:
        refused["prefill_attention"] = f"fewer than {ENOUGH} steps with prompt tokens ({prompts})"
    if read < ENOUGH:
        refused["decode_attention"] = (
            f"fewer than {ENOUGH} decode steps that spend 3 % on the KV cache ({read})"
        )
    if len(records) < ENOUGH:
        refused["step_overhead_s"] = f"fewer than {ENOUGH} steps ({len(records)})"
    return refused
