"""Fresh traces of the interval world, by seed: the same kinds as the paper's, other numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from autopoiesis.simulator.intervals.cost import pcie_factor
from autopoiesis.simulator.intervals.traces import Load, PlanTrace, Step, pool_of
from autopoiesis.simulator.models import MODELS, ModelShape

_QWENS: Final = ("1.5B", "3B", "7B", "14B", "32B", "72B")
_HEAVY: Final = {"1.5B": 64, "3B": 64, "7B": 64, "14B": 384, "32B": 256, "72B": 128}
_LIGHT: Final = {"1.5B": 960, "3B": 480, "7B": 288, "14B": 64, "32B": 32, "72B": 16}
_OUTPUTS: Final = (1024, 2048, 3072, 4096, 6144)
_LLAMA: Final = "Llama-3.1-70B"
_SPOT_MOVE_S: Final = 10.0


def volatile(seed: int, steps: int = 10) -> PlanTrace:
    """Six models; regimes of one to four steps that favour large or small models, each step a few percent off."""
    rng = Random(f"volatile:{seed}")
    regimes = [
        {
            size: (rng.uniform(0.6, 1.3) * mix[size], rng.choice((256, 512)), rng.choice(_OUTPUTS))
            for size in _QWENS
        }
        for mix in (_HEAVY, _LIGHT)
    ]
    order: list[int] = []
    while len(order) < steps:
        order += [(order[-1] + 1) % 2 if order else rng.randrange(2)] * rng.randint(1, 4)
    found = tuple(
        Step(_jittered(regimes[which], rng, 0.08), {"H100": 24, "H200": 24}) for which in order[:steps]
    )
    return PlanTrace(f"fresh/volatile/{seed}", _models(_QWENS), (pool_of("H100"), pool_of("H200")), found)


def stable(seed: int, steps: int = 10) -> PlanTrace:
    """Three small models that hardly change, but for one or two odd steps of twice the output."""
    rng = Random(f"stable:{seed}")
    sizes = _QWENS[:3]
    regime = {size: (rng.uniform(0.6, 1.3) * _LIGHT[size], 256, rng.choice(_OUTPUTS[2:])) for size in sizes}
    odd = set(rng.sample(range(1, steps), rng.randint(1, 2)))
    found = []
    for number in range(steps):
        loads = _jittered(regime, rng, 0.02)
        if number in odd:
            name = rng.choice(sorted(loads))
            load = loads[name]
            loads[name] = Load(load.concurrency, load.prompt_tokens, 2 * load.output_tokens)
        found.append(Step(loads, {"H100": 16, "H200": 16}))
    return PlanTrace(f"fresh/stable/{seed}", _models(sizes), (pool_of("H100"), pool_of("H200")), tuple(found))


def elastic(seed: int, steps: int = 6) -> PlanTrace:
    """Three models under one load while whole machines of three GPU types come and go."""
    rng = Random(f"elastic:{seed}")
    sizes = ("7B", "14B", "72B")
    loads = {
        MODELS[f"Qwen2.5-{size}"].name: Load(batch, 512, rng.choice(_OUTPUTS))
        for size, batch in zip(
            sizes, (rng.randint(16, 64), rng.randint(32, 96), rng.randint(64, 160)), strict=True
        )
    }
    machines = {"A100-80": rng.randint(0, 2), "H100": rng.randint(1, 3), "H200": rng.randint(1, 3)}
    found = []
    for _ in range(steps):
        found.append(Step(loads, {gpu: 8 * count for gpu, count in machines.items()}))
        for gpu, least, most in (("A100-80", 0, 2), ("H100", 1, 5), ("H200", 1, 3)):
            machines[gpu] = min(most, max(least, machines[gpu] + rng.choice((-1, 0, 0, 1))))
    pools = (pool_of("A100-80"), pool_of("H100"), pool_of("H200"))
    return PlanTrace(f"fresh/elastic/{seed}", _models(sizes), pools, tuple(found))


def spot(seed: int, steps: int = 40) -> PlanTrace:
    """Llama-3.1-70B on 24 to 64 spot GPUs, a few of which come or go at each step, through four phases of lengths."""
    rng = Random(f"spot:{seed}")
    model = MODELS[_LLAMA]
    phases = [rng.choice(((512, 1024), (1024, 512), (2048, 256), (4096, 128))) for _ in range(4)]
    requests, gpus, drift, found = rng.randint(48, 96), rng.randint(24, 40), 2, []
    for number in range(steps):
        found.append(Step({model.name: Load(requests, *phases[number * 4 // steps])}, {"A100-80": gpus}))
        drift = -drift if rng.random() < 0.08 or not 26 <= gpus <= 62 else drift
        gpus = min(64, max(24, gpus + drift + rng.randint(-2, 2)))
    weights = model.weight_bytes
    pool = pool_of("A100-80", pcie_bandwidth=2 * weights * pcie_factor(weights) / _SPOT_MOVE_S)
    return PlanTrace(f"fresh/spot/{seed}", (model,), (pool,), tuple(found))


def phased(seed: int, steps: int = 6) -> PlanTrace:
    """Llama-3.1-70B alone on machines of one GPU type; phases of thousands of requests at once that are all prompt, or write a lot."""
    rng = Random(f"phased:{seed}")
    gpu, machines = rng.choice(("A100-80", "H100", "H200")), rng.randint(2, 8)
    requests = rng.randint(1500, 6000)
    found: list[Step] = []
    prompt, output = 0.0, 0.0
    for number in range(steps):
        if number == 0 or rng.random() < 0.6:
            prompt, output = rng.uniform(500, 2000), rng.choice((rng.uniform(3, 20), rng.uniform(250, 600)))
        load = Load(
            requests, round(prompt * rng.uniform(0.98, 1.02)), round(output * rng.uniform(0.98, 1.02))
        )
        found.append(Step({_LLAMA: load}, {gpu: 8 * machines}))
    return PlanTrace(f"fresh/phased/{seed}", (MODELS[_LLAMA],), (pool_of(gpu),), tuple(found))


KINDS: Final[dict[str, Callable[[int], PlanTrace]]] = {
    "volatile": volatile,
    "stable": stable,
    "elastic": elastic,
    "spot": spot,
    "phased": phased,
}
"""Generators by the kind of the paper's trace they resemble."""


def _jittered(regime: dict[str, tuple[float, int, int]], rng: Random, spread: float) -> dict[str, Load]:
    return {
        MODELS[f"Qwen2.5-{size}"].name: Load(
            max(1, round(base * rng.uniform(1 - spread, 1 + spread))), prompt, output
        )
        for size, (base, prompt, output) in regime.items()
    }


def _models(sizes: Sequence[str]) -> tuple[ModelShape, ...]:
    return tuple(MODELS[f"Qwen2.5-{size}"] for size in sizes)
