"""Where the efficiencies in `hardware.py` come from: each beside what measured kernels and layers give.

    python benchmarks/fidelity/kernels.py [--kernels DIR] [--layers FILE.tar.gz] [--json FILE]

Kernels are aiconfigurator's (vLLM, Apache-2.0): matrix products of Llama-3.1-8B, Llama-3.1-70B and Qwen3-32B on 1 to 8 GPUs (the
measured shape nearest to each), causal and decode attention with head dimension 128. Fitted are, to the logarithm of the time:
- products: start + p-norm of FLOPs / (peak * matmul) and weight bytes / (bandwidth * weights),
- prompt attention: start + pairs with `attention_ramp` more context tokens each / (peak * prefill_attention),
- decode attention: start + KV bytes / (bandwidth * decode_attention), batches of 8 sequences and more.
Layers are LLMServingSim's profiles of vLLM 0.19 (MIT): whole layers against the model's, and the query rows that a decoding sequence
costs in an attention call with prompt chunks (`mixed_rows`).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import tarfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyarrow import parquet
from scipy.optimize import least_squares

from autopoiesis.simulator.hardware import Gpu, gpu
from autopoiesis.simulator.models import ModelShape, model
from autopoiesis.simulator.steptime import KNEE, StepTime

SHARED = Path(__file__).parents[3] / "shared" / "data"
SYSTEMS = {
    "a100_sxm": "A100-80",
    "h100_sxm": "H100",
    "h200_sxm": "H200",
    "l40s": "L40S",
    "rtx_pro_6000_server": "RTX-PRO-6000",
}
PROFILED = {"RTX4090": "RTX-4090", "RTXPRO6000": "RTX-PRO-6000"}
SHAPES = ("Llama-3.1-8B", "Llama-3.1-70B", "Qwen3-32B")
Vector = NDArray[np.float64]


def fit(model_of: Callable[[Vector], Vector], seconds: Vector, start: list[float]) -> tuple[Vector, float]:
    """Robust fit of logarithms; the parameters (all positive) and the median absolute error left."""

    def error(x: Vector) -> Vector:
        result: Vector = np.log(model_of(x) / seconds)
        return result

    found = least_squares(error, start, bounds=(1e-9, np.inf), x_scale=start, loss="soft_l1", f_scale=0.1)
    return found.x, float(np.median(np.abs(error(found.x))))


def products(path: Path, chip: Gpu) -> dict[str, float]:
    table = parquet.read_table(path, columns=["gemm_dtype", "m", "n", "k", "latency"]).to_pylist()
    measured = {(r["m"], r["n"], r["k"]): r["latency"] / 1e3 for r in table if r["gemm_dtype"] == "bfloat16"}
    weights = sorted({(n, k) for _, n, k in measured})
    wanted = {
        _nearest(weights, shape)
        for name in SHAPES
        for tp in (1, 2, 4, 8)
        for shape in _layers(model(name), tp)
    }
    rows = np.array([(m, n, k, t) for (m, n, k), t in measured.items() if (n, k) in wanted and m <= 8192])
    m, n, k, seconds = rows.T
    compute, memory = 2 * m * n * k / chip.peak_flops, 2 * n * k / chip.bandwidth
    (matmul, share, begin), left = fit(
        lambda x: x[2] + ((compute / x[0]) ** KNEE + (memory / x[1]) ** KNEE) ** (1 / KNEE),
        seconds,
        [0.7, 0.8, 3e-6],
    )
    return {"matmul": matmul, "weights": share, "product_start_s": begin, "products_error": left}


def _layers(shape: ModelShape, tp: int) -> list[tuple[int, int]]:
    """(n, k) of a layer's four products."""
    attention = shape.heads * shape.head_dim // tp
    keys = shape.head_dim * max(1, shape.kv_heads // tp)
    wide = shape.intermediate // tp
    return [
        (attention + 2 * keys, shape.hidden),
        (shape.hidden, attention),
        (2 * wide, shape.hidden),
        (shape.hidden, wide),
    ]


def _nearest(known: list[tuple[int, int]], wanted: tuple[int, int]) -> tuple[int, int]:
    return min(known, key=lambda w: abs(np.log(w[0] / wanted[0])) + abs(np.log(w[1] / wanted[1])))


def attention(path: Path, chip: Gpu, *, decode: bool) -> dict[str, float]:
    rows = [
        (r["batch_size"], r["num_heads"], r["num_key_value_heads"], r["isl"], r["step"], r["latency"] / 1e3)
        for r in parquet.read_table(path).to_pylist()
        if r["head_dim"] == 128
        and r["kv_cache_dtype"] == "bfloat16"
        and not r.get("window_size")
        and r["num_heads"] in {8, 16, 32, 64}
        and 4 * r["num_key_value_heads"] <= r["num_heads"]
    ]
    batch, heads, kv_heads, prompt, context, seconds = np.array(rows).T
    if decode:
        read = 2 * kv_heads * 128 * 2 * batch * (context + 1) / chip.bandwidth
        chosen = (batch >= 8) & (batch <= 256) & (read > 2e-5)
        (share, begin), left = fit(lambda x: x[1] + read[chosen] / x[0], seconds[chosen], [0.8, 8e-6])
        return {"decode_attention": share, "decode_start_s": begin, "decode_error": left}
    chosen = (batch <= 8) & (prompt >= 128) & (prompt <= 16384)
    pair = (4 * heads * 128 * batch / chip.peak_flops)[chosen]
    length = prompt[chosen]
    (share, ramp, begin), left = fit(
        lambda x: x[2] + pair * length * (length / 2 + x[1]) / x[0], seconds[chosen], [0.6, 300, 5e-6]
    )
    return {
        "prefill_attention": share,
        "attention_ramp": ramp,
        "prefill_start_s": begin,
        "prefill_error": left,
    }


def kernels(directory: Path) -> dict[str, dict[str, float]]:
    """Fitted values by GPU; prints them beside the shipped ones."""
    result = {}
    for system, name in SYSTEMS.items():
        chip = gpu(name)
        files = {
            kind: next(directory.glob(f"{system}__{kind}_perf__*.parquet"), None)
            for kind in ("gemm", "context_attention", "generation_attention")
        }
        if None in files.values():
            print(f"{name}: skipped, kernels missing in {directory}")
            continue
        gemm, context, generation = (path for path in files.values() if path)
        values = (
            products(gemm, chip)
            | attention(context, chip, decode=False)
            | attention(generation, chip, decode=True)
        )
        values["layer_overhead_s"] = 4 * values["product_start_s"] + values["decode_start_s"] + 8e-6
        result[name] = values
        print(f"\n{name}: measured kernels | shipped")
        for key, value in values.items():
            shipped = getattr(chip.efficiency, key, None)
            print(f"  {key:20} {value:12.6g}" + ("" if shipped is None else f" | {shipped:g}"))
    return result


def layers(archive: Path) -> dict[str, float]:
    """Relative error of the model's layers against measured ones, by profile; prints it and the mixed rows."""
    result = {}
    with tarfile.open(archive) as packed:
        for member in sorted(packed.getnames()):
            parts = Path(member).parts
            if Path(member).name != "dense.csv":
                continue
            system, _, name, _, degree = parts[-6:-1]
            shape, tp, chip = model(name), int(degree[2:]), gpu(PROFILED[system])
            if shape.experts:
                continue
            dense = _dense(packed, member, shape)
            rows = _mixed_rows(packed, member.replace("dense", "attention"), shape, tp, chip)
            bare = StepTime(chip, shape, tp)
            own = {n: bare.fixed(n, 0) - bare._all_reduce(n) - chip.efficiency.step_overhead_s for n in dense}  # noqa: SLF001
            errors = {n: own[n] / dense[n] - 1 for n in dense}
            label = f"{shape.name} {tp}x{chip.name}"
            result[label] = float(np.median(np.abs(list(errors.values()))))
            points = "  ".join(f"{n}: {errors[n]:+.0%}" for n in (1, 32, 128, 256, 512, 1024, 2048))
            print(
                f"{label:28} layers by tokens  {points}   mixed_rows {rows:.0f} | {chip.efficiency.mixed_rows}"
            )
    return result


def _csv(packed: tarfile.TarFile, member: str) -> list[dict[str, str]]:
    stream = packed.extractfile(member)
    assert stream
    return list(csv.DictReader(io.TextIOWrapper(stream, "utf-8")))


def _dense(packed: tarfile.TarFile, member: str, shape: ModelShape) -> dict[int, float]:
    """Seconds of all layers but attention, by tokens."""
    total: dict[int, float] = defaultdict(float)
    for row in _csv(packed, member):
        if row["layer"] not in {"embedding", "final_layernorm"}:
            times = 2 if row["layer"] == "layernorm" else 1
            total[int(row["tokens"])] += times * float(row["time_us"]) * 1e-6 * shape.layers
    return total


def _mixed_rows(packed: tarfile.TarFile, member: str, shape: ModelShape, tp: int, chip: Gpu) -> float:
    """Median of what decoding sequences cost beside a prompt chunk, in query rows at the shipped prompt efficiency."""
    fields = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
    rows = {
        tuple(int(float(r[f])) for f in fields[:4]): float(r["time_us"]) * 1e-6 for r in _csv(packed, member)
    }
    pair = (
        shape.attention_flops_per_pair
        / shape.layers
        / tp
        / (chip.peak_flops * chip.efficiency.prefill_attention)
    )
    ratios = [
        (seconds - rows[chunk, prefix, 0, 0]) / (count * context * pair)
        for (chunk, prefix, count, context), seconds in rows.items()
        if chunk >= 64 and count * context >= 32768 and (chunk, prefix, 0, 0) in rows
    ]
    return float(np.median(ratios))


def main() -> int:
    parser = argparse.ArgumentParser(description="Shipped efficiencies against measured kernels and layers.")
    parser.add_argument("--kernels", type=Path, default=SHARED / "kernels", metavar="DIR")
    parser.add_argument(
        "--layers", type=Path, default=SHARED / "vllm-layer-times" / "perf_vllm0.19_RTX4090_RTXPRO6000.tar.gz"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    result: dict[str, object] = {}
    if args.kernels.is_dir():
        result["kernels"] = kernels(args.kernels)
    else:
        print(f"skipped: no directory {args.kernels}")
    if args.layers.is_file():
        print()
        result["layers"] = layers(args.layers)
    else:
        print(f"skipped: no file {args.layers}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
