"""Load figures in the Prometheus exposition of inference servers: vLLM (old and new names), SGLang, llama.cpp."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_LINE: Final = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')

_RUNNING: Final = ("vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing")
_WAITING: Final = ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred")
_KV_SHARE: Final = (
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "sglang:token_usage",
    "llamacpp:kv_cache_usage_ratio",
)
_KV_TOKENS: Final = ("sglang:num_used_tokens", "llamacpp:kv_cache_tokens")
_KV_CAPACITY: Final = ("sglang:max_total_num_tokens",)
_PREFIX_QUERIES: Final = (
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_queries",
    "vllm:gpu_prefix_cache_queries_total",
    "vllm:gpu_prefix_cache_queries",
)
_PREFIX_HITS: Final = (
    "vllm:prefix_cache_hits_total",
    "vllm:prefix_cache_hits",
    "vllm:gpu_prefix_cache_hits_total",
    "vllm:gpu_prefix_cache_hits",
)
_CACHE_CONFIG: Final = "vllm:cache_config_info"

_WANTED: Final = frozenset(
    (
        *_RUNNING,
        *_WAITING,
        *_KV_SHARE,
        *_KV_TOKENS,
        *_KV_CAPACITY,
        *_PREFIX_QUERIES,
        *_PREFIX_HITS,
        _CACHE_CONFIG,
    )
)


_BEGINNINGS: Final = tuple(_WANTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLoad:
    """None where the server does not say. Counts are sums over its engines; tokens."""

    running: int | None = None
    waiting: int | None = None
    kv_used_tokens: int | None = None
    kv_capacity_tokens: int | None = None
    prefix_queries: int | None = None
    prefix_hits: int | None = None


def parse(exposition: str) -> ServerLoad:
    """Lines that cannot be read or are not wanted are skipped."""
    samples: dict[str, list[float]] = {}
    capacity = 0
    for line in exposition.splitlines():
        if not line.startswith(_BEGINNINGS):  # nearly all: servers expose a thousand lines
            continue
        match = _LINE.match(line)
        if match is None or match[1] not in _WANTED:
            continue
        if match[1] == _CACHE_CONFIG:
            capacity += _blocks(match[2] or "")
            continue
        value = _number(match[3])
        if math.isfinite(value):
            samples.setdefault(match[1], []).append(value)
    capacity = capacity or _total(samples, _KV_CAPACITY) or 0
    used = _total(samples, _KV_TOKENS)
    share = _first(samples, _KV_SHARE)
    if used is None and share and capacity:
        used = round(sum(share) / len(share) * capacity)
    return ServerLoad(
        running=_total(samples, _RUNNING),
        waiting=_total(samples, _WAITING),
        kv_used_tokens=used,
        kv_capacity_tokens=capacity or None,
        prefix_queries=_total(samples, _PREFIX_QUERIES),
        prefix_hits=_total(samples, _PREFIX_HITS),
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _first(samples: dict[str, list[float]], names: Iterable[str]) -> list[float] | None:
    return next((samples[name] for name in names if name in samples), None)


def _total(samples: dict[str, list[float]], names: Iterable[str]) -> int | None:
    values = _first(samples, names)
    return None if values is None else round(sum(values))


def _blocks(labels: str) -> int:
    found = dict(_LABEL.findall(labels))
    try:
        return int(found["num_gpu_blocks"]) * int(found["block_size"])
    except (KeyError, ValueError):
        return 0
