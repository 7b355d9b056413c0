"""The paper's claim: plan policies written while serving, against the best frozen ones, each on the same live run.

    python benchmarks/paper/online.py --arm baseline            the best shipped plan policy, by hindsight, frozen
    python benchmarks/paper/online.py --arm evolved             the best of evolved/*/winner.py, by hindsight, frozen
    python benchmarks/paper/online.py --arm online --base-url URL     starts as `baseline`, writes policies from snapshots
    python benchmarks/paper/online.py --arm warm --base-url URL       the same, with what `online` had found as seeds
    python benchmarks/paper/online.py --report [--json FILE]    the comparison of what has run

`--replay` in place of `--base-url` answers from the recording of `rehearse.py` (completions.jsonl), without a model: the policies
in it were written for a simulated snapshot of this run's first half, before the run. Everything is real but engines
and models: NATS, PostgreSQL, router, planner, observer, synthesizer, evaluator. The run is that of `live.py`: GPUs go from 24 to 64
and back to 43, the requests' lengths change three times. Each arm takes 40 buckets of `--bucket` seconds and lands in online/.
`gain_net` is goodput over the whole run of `online` over the better frozen arm, less one: what was served while nothing better was
known counts, and synthesis shares the machine. Processor seconds and tokens of the synthesis stand beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mailed
import numpy as np
import psutil
from cases import DATA
from live import GPU, PHASES, ROUTING, SCOPE, SLO, Run, activate, installed, lengths_at, serve, summary

from autopoiesis.contracts.messages.policy import Activation, Judgement
from autopoiesis.contracts.subjects import EVALUATED, PROMOTED, REJECTED, ROLLED_BACK
from autopoiesis.policy import library
from autopoiesis.policy.language import policy_hash
from autopoiesis.runtime.bus import Delivered
from autopoiesis.simulator import report
from autopoiesis.simulator.api import Fleet, evaluate
from autopoiesis.simulator.requests.planning import Planning
from autopoiesis.simulator.workload import Trace
from autopoiesis.store import Store

HERE = Path(__file__).parent
FOLDER = HERE / "online"
ARMS = ("baseline", "evolved", "online", "warm")
FROZEN = ("baseline", "evolved")
SIMULATED = "Llama-3.1-70B"


@dataclass
class Loop:
    """What the closed loop did meanwhile; seconds since the start of the run."""

    run: Run
    swaps: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)

    async def activated(self, item: Delivered[Activation]) -> None:
        found = item.message
        if found.kind == "plan":
            title = found.name.partition("\n")[0]
            self.swaps.append(
                {"at_s": self.run.now, "hash": found.hash, "cause": found.cause, "title": title}
            )

    async def judged(self, item: Delivered[Judgement]) -> None:
        found = item.message
        self.verdicts.append(
            {"at_s": self.run.now, "hash": found.hash, "verdict": found.verdict, "reason": found.reason}
        )


def ranked(
    given: argparse.Namespace, figures: Mapping[str, Any], sources: Mapping[str, str]
) -> list[tuple[float, str]]:
    """Policies by attainment on this very run in the simulator, best first: hindsight, to the good of those that are frozen."""
    trace = trace_of(given, figures)
    found = [(rehearsal(given, figures, trace, text).attainment(), name) for name, text in sources.items()]
    return sorted(found, reverse=True)


def trace_of(given: argparse.Namespace, figures: Mapping[str, Any]) -> Trace:
    """The arrivals of the run, as `live.traffic` draws them."""
    draw = random.Random(given.seed)
    schedule, phases = schedule_of(given, figures)
    end, rows, at = len(schedule) * given.bucket, [], draw.expovariate(given.rate)
    while at < end:
        rows.append((at, *lengths_at(at / end, phases)))
        at += draw.expovariate(given.rate)
    arrival, prompt, output = (np.array(column) for column in zip(*rows, strict=True))
    return Trace.of("live", arrival, prompt, output)


def rehearsal(given: argparse.Namespace, figures: Mapping[str, Any], trace: Trace, source: str) -> report.Run:
    """The run in the simulator under one plan policy."""
    bucket, (schedule, _) = given.bucket, schedule_of(given, figures)
    planning = Planning(
        policy=source,
        gpus={GPU: schedule[0]},
        changes=[
            (number * bucket, {GPU: gpus})
            for number, gpus in enumerate(schedule)
            if gpus != schedule[max(0, number - 1)]
        ],
        step_s=bucket / 3,
        window_s=5 * bucket,
        cooldown_s=2 * bucket,
        start_s=bucket,
    )
    fleet = Fleet.parse(f"{schedule[0] // 8}x{GPU}/tp8", SIMULATED)
    return evaluate(ROUTING, trace, fleet, SLO, planning=planning, model=SIMULATED).runs[0]


def schedule_of(given: argparse.Namespace, figures: Mapping[str, Any]) -> tuple[list[int], list[list[int]]]:
    return figures["spotserve_cluster_schedule_3s"][: given.buckets], figures["spotserve_hidden_phases"][
        given.case
    ]


def shipped() -> dict[str, str]:
    return {name: library.source(name) for name in library.names("plan", every=True)}


def evolved() -> dict[str, str]:
    """What came out of the paper's traces; Table 4's are for another kind of cluster."""
    found = sorted((HERE / "evolved").glob("*/winner.py"))
    return {path.parent.name: path.read_text() for path in found if not path.parent.name.startswith("table4")}


def control_plane(given: argparse.Namespace, start: str, base_url: str) -> dict[str, dict[str, str]]:
    """Settings of the services that write and prove policies, scaled to the run."""
    bucket = given.bucket
    sections: dict[str, dict[str, Any]] = {
        "router.planner": {"PLANNER_POLICY": start},
        "observer": {
            "OBSERVER_SNAPSHOT_EVERY_S": 6 * bucket,
            "OBSERVER_SNAPSHOT_WINDOW_S": 40 * bucket,
            "OBSERVER_MIN_ARRIVALS": 100,
            "OBSERVER_SETTLE_S": bucket,
            "OBSERVER_SETTLE_MOST_S": 4 * bucket,
            "OBSERVER_DRIFT_BLOCK_S": 1e6,
        },
        "synthesizer": {
            "SYNTHESIZER_KINDS": ["plan"],
            "SYNTHESIZER_INITIAL": ROUTING,
            "SYNTHESIZER_INITIAL_PLAN": start,
            "SYNTHESIZER_PLAN_CYCLE_S": given.cycle or 5 * bucket,
            "SYNTHESIZER_PLAN_CANDIDATES": 24,
            "SYNTHESIZER_PLAN_LOADS": [1.0],
            "SYNTHESIZER_CALLS": given.calls,
            "SYNTHESIZER_ASK": given.ask,
            "SYNTHESIZER_TOKENS": 4_000_000,
            "LLM_BASE_URL": base_url,
            "LLM_MODEL": given.model if base_url else "",
            "LLM_TIMEOUT_S": 3600.0,
            "LLM_MAX_TOKENS": 16_384,
        },
        "evaluator": {
            "EVALUATOR_INITIAL": ROUTING,
            "EVALUATOR_INITIAL_PLAN": start,
            "EVALUATOR_LOADS": [1.0],
            "EVALUATOR_SEEDS": 1,
            "EVALUATOR_PLAN_BLOCK_S": bucket,
            "EVALUATOR_PARALLEL": 1,
        },
    }
    return {
        service: {
            f"AUTOPOIESIS_{key}": value if isinstance(value, str) else json.dumps(value)
            for key, value in settings.items()
        }
        for service, settings in sections.items()
    }


async def frozen(given: argparse.Namespace, figures: Mapping[str, Any], source: str) -> dict[str, Any]:
    async with installed(given) as (bus, running):
        await activate(bus, source)
        return summary(await serve(given, *schedule_of(given, figures), bus, running.router))


async def looping(
    given: argparse.Namespace, figures: Mapping[str, Any], start: str, base_url: str
) -> dict[str, Any]:
    """The run with the closed loop at work, from the shipped policy `start` on."""
    async with (
        installed(given, control_plane(given, start, base_url)) as (bus, running),
        await Store.open(running.database, pool_size=2) as store,
    ):
        run = Run()
        loop = Loop(run)
        await bus.consume((PROMOTED, ROLLED_BACK), "online-swaps", loop.activated)
        await bus.consume((EVALUATED, REJECTED), "online-verdicts", loop.judged)
        if given.arm == "warm":
            await warm(store)
        await serve(given, *schedule_of(given, figures), bus, running.router, run=run)
        spent = {name: cpu_s(running.services[name]) for name in ("observer", "synthesizer", "evaluator")}
        calls, known = await kept(store)
    if calls and given.base_url:
        mailed.write(FOLDER / "completions.jsonl", calls)
    better = [swap for swap in loop.swaps if swap["cause"].startswith("evaluated")]
    if better and given.arm == "online":
        keep_found({known.get(swap["hash"], "") for swap in better})
    return summary(run) | {
        "swaps": loop.swaps,
        "verdicts": loop.verdicts,
        "first_better_s": better[0]["at_s"] if better else None,
        "cpu_s": spent,
        "tokens": sum(call.prompt_tokens + call.completion_tokens for call in calls),
        "calls": len(calls),
    }


async def kept(store: Store) -> tuple[list[mailed.Recorded], dict[str, str]]:
    """Every answered call, oldest first, and the sources of plan policies by hash."""
    async with store.begin() as unit:
        rows = [row for row in await unit.completions.recent(limit=10_000) if row.completion]
        standing = [item.candidate for item in await unit.evaluations.recent(SCOPE, "plan", limit=1000)]
        wanted = {*standing, *(row.candidate for row in rows if row.candidate)}
        hashes = await unit.policies.known(sorted(wanted))
        sources = {name: (await unit.policies.get(name)).source for name in hashes}
    calls = [
        mailed.Recorded(
            row.completion, sources.get(row.candidate, ""), row.prompt_tokens, row.completion_tokens
        )
        for row in reversed(rows)
    ]
    return calls, sources


def keep_found(sources: set[str]) -> None:
    """What was promoted, for a warm start."""
    folder = FOLDER / "found"
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted(filter(None, sources)):
        (folder / f"{policy_hash(source, 'plan')[:12]}.py").write_text(source)


async def warm(store: Store) -> None:
    """An archive that holds what an earlier run had found: the seeds of the first cycle."""
    async with store.begin() as unit:
        for path in sorted((FOLDER / "found").glob("*.py")):
            source = path.read_text()
            name = policy_hash(source, "plan")
            await unit.policies.add(
                hash=name, kind="plan", api=1, source=source, origin="llm", title=path.stem
            )
            await unit.archive.put(
                scope=SCOPE,
                kind="plan",
                hash=name,
                score=1.0,
                cell="warm",
                features={},
                snapshot="",
                simulator="",
            )


def cpu_s(pid: int) -> float:
    """Processor seconds of a service, those of its replays included."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


def run_arm(given: argparse.Namespace, figures: Mapping[str, Any]) -> None:
    rivals = ranked(given, figures, evolved() if given.arm == "evolved" else shipped())
    if not rivals:
        raise SystemExit("evolved/ holds no winner yet: run evolve.py")
    for share, name in rivals:
        print(f"in the simulator {name:28}{share:.3f}")
    name = rivals[0][1]
    if given.arm in FROZEN:
        found = asyncio.run(frozen(given, figures, (shipped() | evolved())[name]))
    else:
        recorded = mailed.read(FOLDER / "completions.jsonl") if given.replay else []
        endpoint = mailed.answering(recorded) if given.replay else nullcontext(given.base_url)
        with endpoint as base_url:
            found = asyncio.run(looping(given, figures, name, base_url))
    settings = {key: getattr(given, key) for key in ("case", "bucket", "buckets", "rate", "seed")}
    FOLDER.mkdir(exist_ok=True)
    kept_json = {"arm": given.arm, "policy": name, "settings": settings, **found}
    (FOLDER / f"{given.arm}.json").write_text(json.dumps(kept_json, indent=1) + "\n")


def proven(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Swaps of an arm to what its evaluator found better."""
    return [swap for swap in facts.get("swaps", ()) if swap["cause"].startswith("evaluated")]


def compare(path: Path | None) -> None:
    """Every arm that has run, and what was gained."""
    found = {
        arm: json.loads((FOLDER / f"{arm}.json").read_text())
        for arm in ARMS
        if (FOLDER / f"{arm}.json").exists()
    }
    print(
        f"{'arm':10}{'starts as':30}{'goodput/s':>10}{'attained':>10}{'failed':>8}{'moves':>7}{'swaps':>7}{'first s':>9}{'CPU s':>8}{'tokens':>9}"
    )
    for arm, facts in found.items():
        swaps = proven(facts)
        first, cpu = facts.get("first_better_s"), sum(facts.get("cpu_s", {}).values())
        print(
            f"{arm:10}{facts['policy']:30}{facts['goodput_per_s']:10.3f}{facts['attainment']:10.3f}"
            f"{facts['requests'] - facts['finished']:8}{facts['plan_changes']:7}{len(swaps):7}"
            f"{'' if first is None else f'{first:.0f}':>9}{cpu:8.0f}{facts.get('tokens', 0):9}"
        )
    if not {"baseline", "online"} <= found.keys():
        return
    best = max(found[arm]["goodput_per_s"] for arm in FROZEN if arm in found)
    result = {
        "gain_net": found["online"]["goodput_per_s"] / best - 1,
        "gain_net_warm": found["warm"]["goodput_per_s"] / best - 1 if "warm" in found else None,
        "swaps": len(proven(found["online"])),
        "regime_changes": PHASES - 1,
        "first_better_s": {
            arm: found[arm].get("first_better_s") for arm in ("online", "warm") if arm in found
        },
        "cpu_s": found["online"]["cpu_s"],
        "tokens": found["online"]["tokens"],
    }
    print(
        f"gain, net of synthesis: {result['gain_net']:+.1%} over the better frozen arm; one run each, no interval"
    )
    if not result["swaps"]:
        print("nothing was promoted while serving, so that figure is the difference of two runs, not a gain")
    if path:
        path.write_text(json.dumps({"online": result}, indent=2) + "\n")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arm", choices=ARMS)
    parser.add_argument("--report", action="store_true")
    parser.add_argument(
        "--base-url", default="", help="an OpenAI-compatible endpoint; without one the offline mutator writes"
    )
    parser.add_argument("--model", default="unnamed")
    parser.add_argument("--replay", action="store_true")
    parser.add_argument("--case", choices=("MAF1", "MAF2"), default="MAF1")
    parser.add_argument("--bucket", type=float, default=6.0, help="seconds of one bucket of the schedule")
    parser.add_argument("--buckets", type=int, default=40)
    parser.add_argument("--rate", type=float, default=16.0, help="requests per second")
    parser.add_argument("--cycle", type=float, default=0.0, help="seconds of one search; 0: five buckets")
    parser.add_argument("--calls", type=int, default=12, help="of the model, per search")
    parser.add_argument("--ask", type=int, default=4, help="questions open at the same time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(words)
    if not (given.data / "traces.json").exists():
        print(f"skipped: the paper's figures are not in {given.data}; name their folder with --data")
        return 0
    if given.arm:
        run_arm(given, json.loads((given.data / "traces.json").read_text()))
    if given.report or given.arm:
        compare(given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
