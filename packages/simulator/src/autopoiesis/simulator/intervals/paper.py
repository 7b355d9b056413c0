"""The paper's traces (its Tables 8-16) from a file that holds their figures, and the choices for what it leaves open.

Choices: §8.1 names no cluster; 24 H100 + 24 H200 for the volatile trace and 16 + 16 for the stable one come nearest to its serving
times. §7 gives mean lengths per phase, which become integers, and one batch of all requests of a phase. SpotServe's cases name no
request counts: `SPOT_REQUESTS` per bucket of 3 s. Its windows of 5 to 50 s are below what a cold load of a 70B model would take there;
one move takes `SPOT_MOVE_S`, the commonest of them but one. Where no machine size is given it is 8 GPUs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from autopoiesis.simulator.intervals.cost import pcie_factor
from autopoiesis.simulator.intervals.traces import Load, PlanTrace, Pool, Step, pool_of
from autopoiesis.simulator.models import MODELS, ModelShape

GB: Final = 1_000_000_000
NVLINK_BYTES_S: Final = 300e9
"""§7: inside a machine."""
ETHERNET_BYTES_S: Final = 20e9 / 8
INFINIBAND_BYTES_S: Final = 50e9
SPOT_REQUESTS: Final = 64
SPOT_MOVE_S: Final = 10.0
SPOT_BUCKETS_PER_PHASE: Final = 10
"""40 buckets, 4 phases."""

VOLATILE_CLUSTER: Final = {"H100": 24, "H200": 24}
STABLE_CLUSTER: Final = {"H100": 16, "H200": 16}

_LLAMA_70B: Final = "Llama-3.1-70B"
_HETEROGENEOUS: Final = {"A100-40": 20, "A100-80": 20, "H100": 8, "H20": 16}
_HETEROGENEOUS_SHARES: Final = {_LLAMA_70B: 0.2, "Llama-2-13B": 0.3, "Llama-3.1-8B": 0.5}
"""Of a phase's requests; the paper gives none."""


def read(path: Path) -> Mapping[str, Any]:
    """The figures. Raises OSError; ValueError for a file that is not theirs."""
    figures: Mapping[str, Any] = json.loads(path.read_text())
    missing = {"token_shapes_prefill_decode", "sec8_1_volatile", "sec8_1_stable", "sec8_2"} - set(figures)
    if missing:
        raise ValueError(f"{path} is not the paper's tables: {', '.join(sorted(missing))} missing")
    return figures


def volatile(figures: Mapping[str, Any]) -> PlanTrace:
    """§8.1, Tables 10 and 2: ten steps that alternate between heavy (H) and light (L) mixes."""
    shapes = figures["token_shapes_prefill_decode"]
    steps = tuple(
        Step(
            {
                qwen(size).name: Load(count, *shapes[row["phase"]][size])
                for size, count in row["batch"].items()
            },
            dict(VOLATILE_CLUSTER),
        )
        for row in figures["sec8_1_volatile"]
    )
    return PlanTrace("table2/volatile", _qwens(figures["sec8_1_volatile"][0]["batch"]), _hopper(), steps)


def stable(figures: Mapping[str, Any]) -> PlanTrace:
    """§8.1, Tables 11 and 2: ten steps of small models with slight changes and two odd steps."""
    table = figures["sec8_1_stable"]
    odd = table["exceptions"]
    if odd != {"ts3": "1.5B decode 8192", "ts6": "7B prefill 512"}:
        raise ValueError(f"the stable trace has exceptions that are not known: {odd}")
    steps = []
    for number in range(len(table["batch"]["7B"])):
        loads = {}
        for size, counts in table["batch"].items():
            prompt = 512 if (size, number) == ("7B", 6) else table["prefill"]
            output = 8192 if (size, number) == ("1.5B", 3) else table["decode"][size]
            loads[qwen(size).name] = Load(counts[number], prompt, output)
        steps.append(Step(loads, dict(STABLE_CLUSTER)))
    return PlanTrace("table2/stable", _qwens(table["batch"]), _hopper(), tuple(steps))


def elastic(figures: Mapping[str, Any], which: str) -> PlanTrace:
    """§8.2, Tables 13-14 and 3: one load, a cluster that changes at each of five steps; `which` is `stable` or `volatile`."""
    table = figures["sec8_2"]
    loads = {
        qwen(size).name: Load(row["batch"], row["prefill"], row["decode"])
        for size, row in table["workload"].items()
    }
    steps = tuple(Step(loads, dict(gpus)) for gpus in table[which])
    return PlanTrace(f"table3/{which}", _qwens(table["workload"]), _clouds(table["gpus"]), steps)


def homogeneous(figures: Mapping[str, Any], dataset: str) -> PlanTrace:
    """§7, DistServe's case: Llama-3.1-70B on 32 H100, one step per phase."""
    requests = figures["requests_per_phase"]["DistServe"][dataset]
    steps = tuple(
        Step({_LLAMA_70B: Load(requests, round(prompt), max(1, round(output)))}, {"H100": 32})
        for prompt, output in figures["main_phases_mean_prefill_decode"][dataset]
    )
    pools = (pool_of("H100", link_bandwidth=NVLINK_BYTES_S, network_bandwidth=INFINIBAND_BYTES_S),)
    return PlanTrace(f"DistServe/{dataset}", (MODELS[_LLAMA_70B],), pools, steps)


def heterogeneous(figures: Mapping[str, Any], dataset: str) -> PlanTrace:
    """§7, HexGen's case: three Llamas on 64 GPUs of four types; its figure has four of the six phases."""
    requests = figures["requests_per_phase"]["HexGen"][dataset]
    steps = tuple(
        Step(
            {
                name: Load(round(share * requests), round(prompt), max(1, round(output)))
                for name, share in _HETEROGENEOUS_SHARES.items()
            },
            dict(_HETEROGENEOUS),
        )
        for prompt, output in figures["main_phases_mean_prefill_decode"][dataset][:4]
    )
    pools = tuple(
        pool_of(
            name,
            per_node=4 if name.startswith("A100") else 8,
            link_bandwidth=NVLINK_BYTES_S,
            network_bandwidth=ETHERNET_BYTES_S,
        )
        for name in _HETEROGENEOUS
    )
    models = tuple(MODELS[name] for name in _HETEROGENEOUS_SHARES)
    return PlanTrace(f"HexGen/{dataset}", models, pools, steps)


def spot(figures: Mapping[str, Any], case: str) -> PlanTrace:
    """§7, SpotServe's case: Llama-3.1-70B on 24 to 64 A100, 40 buckets of 3 s in four phases; `case` is `MAF1` or `MAF2`."""
    phases = figures["spotserve_hidden_phases"][case]
    steps = tuple(
        Step({_LLAMA_70B: Load(SPOT_REQUESTS, *phases[number // SPOT_BUCKETS_PER_PHASE])}, {"A100-80": gpus})
        for number, gpus in enumerate(figures["spotserve_cluster_schedule_3s"])
    )
    model = MODELS[_LLAMA_70B]
    load = 2 * model.weight_bytes * pcie_factor(model.weight_bytes)
    spot_pool = pool_of(
        "A100-80",
        link_bandwidth=NVLINK_BYTES_S,
        network_bandwidth=ETHERNET_BYTES_S,
        pcie_bandwidth=load / SPOT_MOVE_S,
    )
    return PlanTrace(f"SpotServe/{case}", (model,), (spot_pool,), steps)


def every(figures: Mapping[str, Any]) -> list[PlanTrace]:
    """All of them, in the order of the tables."""
    return [
        volatile(figures),
        stable(figures),
        elastic(figures, "volatile"),
        elastic(figures, "stable"),
        *(homogeneous(figures, name) for name in ("ShareGPT", "LongBench")),
        *(heterogeneous(figures, name) for name in ("ShareGPT", "LongBench")),
        *(spot(figures, name) for name in ("MAF1", "MAF2")),
    ]


def qwen(size: str) -> ModelShape:
    """The Qwen2.5 of that size; the paper's models are named by size alone. Raises KeyError."""
    return MODELS[f"Qwen2.5-{size}"]


def _qwens(sizes: Mapping[str, Any]) -> tuple[ModelShape, ...]:
    return tuple(qwen(size) for size in sizes)


def _hopper() -> tuple[Pool, ...]:
    return tuple(
        pool_of(name, memory_bytes=memory) for name, memory in (("H100", 80 * GB), ("H200", 141 * GB))
    )


def _clouds(gpus: Mapping[str, Mapping[str, float]]) -> tuple[Pool, ...]:
    """§8.2's table; it gives NVLink in both directions together."""
    labels = {"A100-80GB": "A100", "H100-SXM": "H100", "H200-SXM": "H200"}
    return tuple(
        pool_of(
            label,
            type=label,
            memory_bytes=int(gpus[name]["mem_gb"]) * GB,
            link_bandwidth=gpus[name]["nvlink_GBs"] * 0.5e9,
            pcie_bandwidth=gpus[name]["pcie_GBs"] * 1e9,
        )
        for name, label in labels.items()
    )
