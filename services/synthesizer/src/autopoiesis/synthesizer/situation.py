"""What the open snapshot says of workload, fleet and objectives, in figures only."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autopoiesis.contracts.messages.fleet import PlanObserved
from autopoiesis.contracts.slo import Objectives
from autopoiesis.simulator.workload.trace import Trace
from autopoiesis.simulator.workload.window import SnapshotInfo, Window

STEPS_SHOWN = 24
"""Monitoring steps of a window in a prompt, at most."""


@dataclass(frozen=True, slots=True)
class Situation:
    """Lines of text, made of statistics: no request content, no identities, nothing sealed."""

    workload: Sequence[str] = ()
    fleet: Sequence[str] = ()
    objectives: Sequence[str] = ()
    requests: bool = False
    """Of a window of single requests, not of a trace of loads."""

    def text(self) -> str:
        parts = (
            ("Workload seen", self.workload),
            ("Fleet", self.fleet),
            ("Objectives per class", self.objectives),
        )
        return "\n".join(
            f"{name}:\n" + "\n".join(f"- {line}" for line in lines) for name, lines in parts if lines
        )


def situation_of(window: Window) -> Situation:
    info = window.info
    return Situation(_workload(window.trace), _fleet(info), _objectives(info.objectives), requests=True)


def situation_of_plans(window: Window) -> Situation:
    """The same for whoever plans: demand, GPUs and plan in force by monitoring step, the planner's rules, what a move costs."""
    found = situation_of(window)
    return replace(found, fleet=[*found.fleet, *_planned(window.info)])


def _workload(trace: Trace) -> list[str]:
    if len(trace) < 2:
        return [f"{len(trace)} arrivals"]
    gaps = np.diff(trace.arrival)
    lines = [
        (
            f"{len(trace)} arrivals in {trace.duration:.0f} s, {trace.rate:.2f} per s, "
            f"coefficient of variation of gaps {gaps.std() / max(gaps.mean(), 1e-9):.2f} (1 is Poisson)"
        )
    ]
    for code, name in enumerate(trace.classes):
        rows = trace.klass == code
        if rows.any():
            lines.append(
                f"class {name}: {rows.mean():.0%} of arrivals, prompt tokens {_spread(trace.prompt_tokens[rows])}, "
                f"output tokens {_spread(trace.output_tokens[rows & ~trace.censored])}"
            )
    in_session = float((trace.session > 0).mean())
    if in_session:
        lines.append(
            f"{in_session:.0%} of arrivals belong to sessions ({len(np.unique(trace.session)) - 1} of them)"
        )
    if trace.block_hashes is not None:
        blocks = [block for row in trace.block_hashes for block in row]
        if blocks:
            lines.append(
                f"{1 - len(set(blocks)) / len(blocks):.0%} of prompt blocks were seen before in this window"
            )
    return lines


def _spread(values: "np.typing.NDArray[np.int64]") -> str:
    if not values.size:
        return "unknown"
    p50, p95 = np.quantile(values, [0.5, 0.95])
    return f"p50 {p50:.0f}, p95 {p95:.0f}"


def _fleet(info: SnapshotInfo) -> list[str]:
    kinds = Counter(
        (beat.gpu, beat.tp, beat.model, beat.max_running, beat.kv_capacity_tokens)
        for beat in info.fleet
        if beat.state == "ready"
    )
    lines = [
        f"{count} x {gpu} (tensor parallelism {tp}) serving {model}: batch limit {batch}, KV cache {capacity} tokens"
        for (gpu, tp, model, batch, capacity), count in sorted(kinds.items())
    ]
    for gpu, model in {b.gpu: b.step_model for b in info.fleet if b.step_model}.items():
        lines.append(
            f"{gpu}: one step takes about {model.base_s * 1e3:.1f} ms + {model.prefill_token_s * 1e6:.1f} us per prompt token "
            f"+ {model.sequence_s * 1e6:.0f} us per decoding sequence + {model.kv_token_s * 1e9:.1f} ns per KV token read"
        )
    if info.changes:
        lines.append(f"{len(info.changes)} changes of membership during the window")
    return [*lines, f"{info.routers} router(s) share it"]


def _objectives(objectives: Objectives) -> list[str]:
    return [
        f"{name} (priority {c.priority}): first token within {_seconds(c.ttft_s)}, then {_seconds(c.tpot_s)} per token"
        for name, c in sorted(objectives.classes.items())
    ]


def _seconds(value: float | None) -> str:
    return "any time" if value is None else f"{value:g} s"


def _planned(info: SnapshotInfo) -> list[str]:
    if not info.planned:
        return []
    rules = info.planned[-1].rules
    lines = [
        (
            f"the policy is asked every {rules.step_s:g} s, after a change of the plan not for {rules.cooldown_s:g} s unless GPUs "
            f"came or went; demand is measured over {rules.window_s:g} s"
        ),
        *(
            f"{name}: at least {bounds.min_replicas} replicas, at most {bounds.max_replicas or 'any number'}"
            for name, bounds in rules.bounds.items()
        ),
        *(f"at most {count} {gpu} may be used" for gpu, count in rules.quota.items() if count),
    ]
    if info.start_s is not None:
        lines.append(
            f"a replica that starts is ready after {info.start_s:.1f} s and serves nothing until then"
        )
    every = max(1, -(-len(info.planned) // STEPS_SHOWN))
    lines.append(f"what the planner saw, every {every * rules.step_s:g} s of the window:")
    return [*lines, *(_step(step, info.start_unix_s) for step in info.planned[::every])]


def _step(step: PlanObserved, start_unix_s: float) -> str:
    gpus = ", ".join(f"{count} {gpu}" for gpu, count in step.gpus.items())
    demand = ", ".join(
        f"{name} {load.concurrency} at once ({load.arrival_rate:.2f} per s, {load.prompt_tokens} + {load.output_tokens} tokens)"
        for name, load in step.demand.items()
    )
    plan = " + ".join(f"{r.count} x {r.gpu}/tp{r.tp}" for r in step.plan) or "nothing"
    return f"{step.at_unix_s - start_unix_s:.0f} s: {gpus}; demand {demand}; running {plan}"
