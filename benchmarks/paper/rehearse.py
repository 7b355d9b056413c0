"""Let a model write plan policies for the live run of `online.py` ahead of it, from a snapshot of its beginning, simulated.

    python benchmarks/paper/rehearse.py --base-url URL [--model NAME] [--calls 18]

The run's first `--share`, served in the simulator under the best shipped plan policy, becomes a snapshot such as the observer makes;
the synthesizer's own search asks about it. Answers are kept in online/completions.jsonl, for `online.py --replay`: the live run has
snapshots, replays, verdicts and swaps of its own and only needs no model. Prints how the policies would do on the whole run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

import mailed
import msgspec
import numpy as np
from cases import DATA
from live import GPU, MODEL, ROUTING, SCOPE, SLO
from online import FOLDER, SIMULATED, ranked, rehearsal, schedule_of, shipped, trace_of

from autopoiesis.contracts.messages.fleet import (
    ModelBounds,
    ModelLoad,
    PlannedReplicas,
    PlanObserved,
    PlanRules,
)
from autopoiesis.policy import library
from autopoiesis.policy.jail import Jail, Limits
from autopoiesis.policy.language import policy_hash
from autopoiesis.simulator.api import Fleet, Run, Trace
from autopoiesis.simulator.requests.engines import Engine
from autopoiesis.simulator.workload.window import SnapshotInfo, Window
from autopoiesis.synthesizer.budget import Budget
from autopoiesis.synthesizer.budget import Limits as Spend
from autopoiesis.synthesizer.candidates import Scored
from autopoiesis.synthesizer.candidates import shipped as seeds
from autopoiesis.synthesizer.evolution import Evolution
from autopoiesis.synthesizer.fitness import Bounds
from autopoiesis.synthesizer.llm import LanguageModel
from autopoiesis.synthesizer.proposers.llm import Call, LlmProposer
from autopoiesis.synthesizer.replay import MODULES, Replays
from autopoiesis.synthesizer.scoring import Plan, WindowScorer
from autopoiesis.synthesizer.settings import LlmSettings
from autopoiesis.synthesizer.situation import situation_of_plans


def window_of(given: argparse.Namespace, run: Run, trace: Trace, schedule: list[int]) -> Window:
    """The first part of a simulated run as a snapshot, with what its planner saw."""
    end = given.share * given.bucket * len(schedule)
    fleet = Fleet.parse(f"{schedule[0] // 8}x{GPU}/tp8", SIMULATED)
    beats = tuple(
        msgspec.structs.replace(Engine(spec, 0.0, None).heartbeat(0.0), model=MODEL)
        for spec in fleet.replicas
    )
    rules = PlanRules(
        step_s=given.bucket / 3,
        window_s=5 * given.bucket,
        cooldown_s=2 * given.bucket,
        bounds={MODEL: ModelBounds()},
    )
    info = SnapshotInfo(
        scope=SCOPE,
        start_unix_s=0.0,
        end_unix_s=end,
        objectives=SLO,
        fleet=beats,
        planned=tuple(
            seen(run, at, schedule[int(at / given.bucket)], rules, schedule[0])
            for at in np.arange(rules.step_s, end, rules.step_s).tolist()
        ),
        start_s=given.bucket,
    )
    return Window(info, trace.between(0.0, end))


def seen(run: Run, at: float, gpus: int, rules: PlanRules, first: int) -> PlanObserved:
    """What a planner sees at a moment of a run."""
    arrived = run.arrival_s <= at
    held = arrived & ~(run.arrival_s + run.e2e_s <= at)
    lately = arrived & (run.arrival_s > at - rules.window_s)
    moves = [move.counts for move in (run.plan.moves if run.plan else ()) if move.at <= at]
    plan = moves[-1] if moves else {(GPU, 8, "mixed"): first // 8}
    load = ModelLoad(
        concurrency=int(held.sum()),
        arrival_rate=float(lately.sum()) / min(rules.window_s, max(at, 1.0)),
        prompt_tokens=round(float(run.prompt_tokens[lately].mean())) if lately.any() else 1,
        output_tokens=round(float(run.tokens[lately].mean())) or 1 if lately.any() else 1,
    )
    return PlanObserved(
        scope=SCOPE,
        step=int(at / rules.step_s),
        at_unix_s=at,
        policy="",
        epoch=0,
        gpus={GPU: gpus},
        demand={MODEL: load},
        plan=tuple(PlannedReplicas(model=MODEL, gpu=g, tp=tp, count=n) for (g, tp, _), n in plan.items()),
        rules=rules,
    )


async def written(given: argparse.Namespace, window: Window, start: str) -> Evolution:
    """The search on the snapshot; every answer is kept as it comes."""
    router, incumbent = library.source(ROUTING), library.source(start)
    beside = Scored(policy_hash(router, "dispatch"), router, "dispatch", "library", title=ROUTING)
    budget = Budget(Spend(given.seconds, 10 * given.calls, given.calls, 10**8, 1.0))
    model = LanguageModel(
        LlmSettings(base_url=given.base_url, model=given.model, timeout_s=given.seconds, max_tokens=16_384)
    )
    calls: list[Call] = []

    async def keep(call: Call) -> None:
        calls.append(call)
        print(f"answer {len(calls)}: {call.candidate[:12] or call.error[:100]}", flush=True)

    with Jail(MODULES, workers=1, limits=Limits(wall_s=300.0, cpu_s=60.0)) as jail:
        scorer = WindowScorer(
            Replays(jail, window, beside), Plan((1.0,), Bounds(0.1, 0.05, 50_000.0), stretch=False)
        )
        evolution = Evolution(
            SCOPE, "plan", scorer, budget, given.ask, situation_of_plans(window), seed=given.seed
        )
        await evolution.begin(
            Scored(policy_hash(incumbent, "plan"), incumbent, "plan", "library", title=start), seeds("plan")
        )
        await evolution.run([LlmProposer(model, budget, keep, failures=evolution.failures)])
    await model.close()
    sources = {p.hash: p.source for p in (*evolution.tried, *evolution.archive.ranked())}
    FOLDER.mkdir(exist_ok=True)
    kept = [
        mailed.Recorded(
            c.answer.text, sources.get(c.candidate, ""), c.answer.prompt_tokens, c.answer.completion_tokens
        )
        for c in calls
        if c.answer
    ]
    mailed.write(FOLDER / "completions.jsonl", kept)
    return evolution


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", default="unnamed")
    parser.add_argument("--calls", type=int, default=18)
    parser.add_argument("--ask", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=900.0, help="of the whole search")
    parser.add_argument("--share", type=float, default=0.5, help="of the run, in the snapshot")
    parser.add_argument("--case", choices=("MAF1", "MAF2"), default="MAF1")
    parser.add_argument("--bucket", type=float, default=6.0)
    parser.add_argument("--buckets", type=int, default=40)
    parser.add_argument("--rate", type=float, default=16.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DATA)
    given = parser.parse_args()
    figures: dict[str, Any] = json.loads((given.data / "traces.json").read_text())
    (_, start), *_ = ranked(given, figures, shipped())
    trace = trace_of(given, figures)
    run = rehearsal(given, figures, trace, library.source(start))
    window = window_of(given, run, trace, schedule_of(given, figures)[0])
    evolution = asyncio.run(written(given, window, start))
    best = {p.title[:60]: p.source for p in evolution.finished()[:5]} | {start: library.source(start)}
    for share, title in ranked(given, figures, best):
        print(f"on the whole run {share:.3f}  {title}")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
