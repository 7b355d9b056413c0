"""How well the simulator's step times fit what the engines measured."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from autopoiesis.contracts.messages.fleet import Heartbeat, StepModel
from autopoiesis.simulator.fleet import steps_of
from autopoiesis.simulator.workload.window import GpuProbe

Seconds = npt.NDArray[np.float64]
Predict = Callable[[int, int, int], float]
"""(prefill tokens, decoding sequences, KV tokens) -> seconds of one step."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Of one kind of replica."""

    model: str
    gpu: str
    tp: int
    steps: int
    """Engine steps measured."""
    scale: float
    """Measured over modelled time: above 1 the engine is slower than the model."""
    error: float
    """Relative error that stays after scaling: sum of |scaled - measured| over sum of measured."""
    measured_s: float
    """Sum of measured durations, the weight of this entry."""


def calibrate(
    steps: pa.Table, fleet: Sequence[Heartbeat], measured: Mapping[str, GpuProbe] = MappingProxyType({})
) -> list[Calibration]:
    """One entry per (model, GPU type, tensor parallelism) in `steps` (columns of `rows.StepRow`) that can be modelled.

    The model is what the simulator makes of a snapshot: `steps_of`, with what nodes `measured` of their GPUs.
    """
    carried = {(beat.model, beat.gpu, beat.tp): beat.step_model for beat in fleet if beat.step_model}
    found = []
    for kind in steps.group_by(["model", "gpu", "tp"]).aggregate([]).sort_by("gpu").to_pylist():
        key = (kind["model"], kind["gpu"], kind["tp"])
        predict = _predictor(*key, carried.get(key), measured.get(kind["gpu"]))
        rows = steps.filter(
            (pc.field("model") == key[0]) & (pc.field("gpu") == key[1]) & (pc.field("tp") == key[2])
        )
        if predict is not None and pc.sum(rows["duration_s"]).as_py() > 0:
            found.append(_compared(key, rows, predict))
    return found


def by_gpu(found: Sequence[Calibration]) -> tuple[dict[str, float], float | None]:
    """(scale per GPU type, error over all), weighted by measured time; no error where nothing was measured."""
    total = sum(c.measured_s for c in found)
    scales = {
        name: sum(c.scale * c.measured_s for c in found if c.gpu == name)
        / sum(c.measured_s for c in found if c.gpu == name)
        for name in sorted({c.gpu for c in found})
    }
    return scales, sum(c.error * c.measured_s for c in found) / total if total else None


def _predictor(
    name: str, kind: str, tp: int, carried: StepModel | None, probe: GpuProbe | None
) -> Predict | None:
    try:
        times = steps_of(name, kind, tp, carried=carried, probe=probe)
    except ValueError:
        return None
    return lambda prefill, decodes, kv: times.step(
        [(prefill, 0)] if prefill else [], decodes, kv, decodes + (prefill > 0)
    )


def _compared(key: tuple[str, str, int], rows: pa.Table, predict: Predict) -> Calibration:
    columns = [rows[name].to_pylist() for name in ("prefill_tokens", "decode_sequences", "kv_tokens")]
    modelled: Seconds = np.array([predict(*row) for row in zip(*columns, strict=True)])
    weights: Seconds = rows["steps"].to_numpy().astype(np.float64)
    measured: Seconds = rows["duration_s"].to_numpy()
    total = float((measured * weights).sum())
    scale = total / float((modelled * weights).sum())
    error = float((np.abs(scale * modelled - measured) * weights).sum()) / total
    return Calibration(
        model=key[0],
        gpu=key[1],
        tp=key[2],
        steps=int(weights.sum()),
        scale=scale,
        error=error,
        measured_s=total,
    )
