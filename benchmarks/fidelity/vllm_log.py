"""Reads a directory with one real engine's per-request log: `meta.json` and `requests.jsonl`, as LLMServingSim's bench writes them.

Each line of requests.jsonl: input_toks, output_toks, arrival_time (epoch, s), queued_ts, first_token_ts and last_token_ts (monotonic,
s), cached_toks where the engine reported prefix hits. The clocks differ by the smallest queued_ts - arrival_time. meta.json: model,
vllm_version, engine_kwargs, and where known kv_cache, hardware and resolved_config. A Hugging Face config.json beside them describes
a model that is not in the table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autopoiesis.simulator.calibrate import EngineSetup, RequestSample
from autopoiesis.simulator.engine import EngineConfig
from autopoiesis.simulator.hardware import GPUS, Gpu, gpu
from autopoiesis.simulator.models import ModelShape, from_config
from autopoiesis.simulator.models import model as known_model
from autopoiesis.simulator.steptime import kv_capacity_tokens

ASYNC_SINCE = (0, 14)
"""vLLM schedules asynchronously by default since this version."""
LARGE_MEMORY = 70 << 30
"""vLLM's server takes 8192 tokens and 1024 sequences a step by default above this much memory (but on A100), else 2048 and 256."""
CLOCKS = ("arrival_time", "queued_ts", "first_token_ts", "last_token_ts")
SIZES = ("input_toks", "output_toks")


class LogError(ValueError):
    """A log that cannot be read, and where."""


@dataclass(frozen=True)
class EngineLog:
    """A real engine, and what it did to each request."""

    setup: EngineSetup
    requests: list[RequestSample]
    notes: list[str]
    """What the log did not say and was assumed."""


def read(directory: Path, gpu_name: str = "") -> EngineLog:
    """Raises `LogError` naming what is missing or wrong."""
    meta = json.loads(_text(directory / "meta.json"))
    notes: list[str] = []
    kwargs = meta.get("engine_kwargs", {})
    if (kwargs.get("data_parallel_size") or 1) > 1 or (kwargs.get("pipeline_parallel_size") or 1) > 1:
        raise LogError("data and pipeline parallel engines are not simulated as one replica")
    chip = _gpu(directory, meta, gpu_name)
    shape = _model(directory, meta)
    tp = kwargs.get("tensor_parallel_size") or 1
    config, prefix = _config(meta, chip, shape, tp, notes)
    requests = _requests(directory / "requests.jsonl", config.block_tokens if prefix else 0)
    setup = EngineSetup(gpu=chip, model=shape, config=config, tp=tp, async_scheduling=_is_async(meta, notes))
    return EngineLog(setup, requests, notes)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise LogError(f"{path} is not there") from None


def _gpu(directory: Path, meta: Mapping[str, Any], name: str) -> Gpu:
    """By name, as the driver names it, or as the directory's name begins."""
    candidates = (
        [name] if name else [meta.get("hardware", {}).get("device_name", ""), directory.name.split("_")[0]]
    )
    for candidate in candidates:
        try:
            return gpu(candidate)
        except ValueError:
            continue
    raise LogError(f"no known GPU among {candidates}; say which with --gpu: {', '.join(GPUS)}")


def _model(directory: Path, meta: Mapping[str, Any]) -> ModelShape:
    path = directory / "config.json"
    shape = (
        from_config(json.loads(path.read_text()), meta["model"])
        if path.exists()
        else known_model(meta["model"])
    )
    kwargs = meta.get("engine_kwargs", {})
    fp8 = shape.fp8 or kwargs.get("quantization") == "fp8"
    return replace(shape, fp8=fp8, kv_fp8=str(kwargs.get("kv_cache_dtype", "")).startswith("fp8"))


def _config(
    meta: Mapping[str, Any], chip: Gpu, shape: ModelShape, tp: int, notes: list[str]
) -> tuple[EngineConfig, bool]:
    kwargs, cache = meta.get("engine_kwargs", {}), meta.get("kv_cache", {})
    large = chip.memory_bytes >= LARGE_MEMORY and not chip.name.startswith("A100")
    running = kwargs.get("max_num_seqs") or (1024 if large else 256)
    batched = kwargs.get("max_num_batched_tokens") or (8192 if large else 2048)
    block = cache.get("block_size") or 16
    if cache.get("num_gpu_blocks"):
        tokens = (cache["num_gpu_blocks"] - 1) * block
    else:
        tokens = kv_capacity_tokens(
            chip, shape, tp, max_batched_tokens=batched, max_running=running, block_tokens=block
        )
        notes.append(f"KV cache not in the log: {tokens} tokens estimated")
    prefix = cache.get("enable_prefix_caching", kwargs.get("enable_prefix_caching"))
    prefix = True if prefix is None else bool(prefix)
    config = EngineConfig(
        kv_capacity_tokens=tokens,
        max_batched_tokens=max(batched, running),
        max_running=running,
        block_tokens=block,
        prefix_block_tokens=block if prefix else 0,
    )
    return config, prefix


def _is_async(meta: Mapping[str, Any], notes: list[str]) -> bool:
    told = meta.get("resolved_config", {}).get("scheduler_config", {}).get("async_scheduling")
    if told is not None:
        return bool(told)
    version = meta.get("vllm_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    notes.append(f"async scheduling not in the log: the default of vLLM {version or '(latest)'}")
    return not numbers or numbers >= ASYNC_SINCE


def _requests(path: Path, block: int) -> list[RequestSample]:
    rows = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append(
                row | {field: float(row[field]) for field in CLOCKS} | {f: int(row[f]) for f in SIZES}
            )
        except (ValueError, KeyError, TypeError) as problem:
            raise LogError(f"{path}, line {number}: {problem!r}") from None
    if not rows:
        raise LogError(f"{path} has no requests")
    offset = min(row["queued_ts"] - row["arrival_time"] for row in rows)
    begin = min(row["arrival_time"] for row in rows)
    return [_sample(index, row, begin, offset + begin, block) for index, row in enumerate(rows)]


def _sample(index: int, row: Mapping[str, Any], begin: float, offset: float, block: int) -> RequestSample:
    """Requests share no prompt unless hits were reported; with a prefix cache each still finds its own blocks after preemption."""
    prompt, output, cached = row["input_toks"], row["output_toks"], row.get("cached_toks") or 0
    own = range((prompt + output) // block) if block and not cached else ()
    return RequestSample(
        arrival_s=row["arrival_time"] - begin,
        prompt_tokens=prompt,
        output_tokens=output,
        first_token_s=row["first_token_ts"] - offset,
        end_s=row["last_token_ts"] - offset,
        cached_tokens=cached,
        block_hashes=tuple(index << 32 | block for block in own),
    )
