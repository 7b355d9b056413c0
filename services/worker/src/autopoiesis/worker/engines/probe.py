"""Measures this machine's accelerators with torch and prints them as JSON; about a second per device.

`python -m autopoiesis.worker.engines.probe`. Large bf16 matrix products give the FLOP/s, copying a large buffer the memory
bandwidth (a byte copied is one read and one written). Where torch sees no GPU, the processor is measured.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch

MEASURE_S: Final = 0.3
"""Per figure; the best of the repeats in it counts, because a disturbed one says nothing of the device."""

GPU_SIZE: Final = 8192
CPU_SIZE: Final = 1024
GPU_BYTES: Final = 1 << 30
CPU_BYTES: Final = 1 << 27


def best_s(work: Callable[[], object], synchronize: Callable[[], None]) -> float:
    """Shortest seconds of `work`, after one run to warm up."""
    work()
    synchronize()
    shortest, until = float("inf"), time.perf_counter() + MEASURE_S
    while time.perf_counter() < until:
        began = time.perf_counter()
        work()
        synchronize()
        shortest = min(shortest, time.perf_counter() - began)
    return shortest


def figures(device: str, size: int, copied_bytes: int, synchronize: Callable[[], None]) -> dict[str, float]:
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    b = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    product = torch.empty_like(a)
    source = torch.zeros(copied_bytes, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    matmul_s = best_s(lambda: torch.mm(a, b, out=product), synchronize)
    copy_s = best_s(lambda: target.copy_(source), synchronize)
    return {"flops": 2 * size**3 / matmul_s, "bandwidth": 2 * copied_bytes / copy_s}


def devices() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count()):
        described = torch.cuda.get_device_properties(index)
        free = torch.cuda.mem_get_info(index)[0]
        copied = min(GPU_BYTES, free // 8)
        measured = figures(f"cuda:{index}", GPU_SIZE, copied, partial(torch.cuda.synchronize, index))
        found.append({"name": described.name, "memory_bytes": described.total_memory, **measured})
        torch.cuda.empty_cache()
    if not found:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        found.append(
            {"name": "CPU", "memory_bytes": memory, **figures("cpu", CPU_SIZE, CPU_BYTES, lambda: None)}
        )
    return found


if __name__ == "__main__":
    with torch.inference_mode():
        json.dump(devices(), sys.stdout)
