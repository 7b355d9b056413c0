"""Let a language model evolve a plan policy on one of the paper's traces, with the synthesizer's own search.

    python benchmarks/paper/evolve.py --case table2/volatile --base-url URL [--model NAME] [--proposals 48]
    python benchmarks/paper/evolve.py --case table2/volatile --finish
    python benchmarks/paper/evolve.py --case table2/volatile --replay

The first form asks any OpenAI-compatible endpoint, `--population` questions at a time. It keeps, in evolved/<case>/: completions.jsonl
(answers by the hash of their prompt), runs.json (what each policy did and how long it took, by policy hash), winner.py and
lineage.json. Interrupted, it goes on where it was; `--finish` ends it with the answers there are. `--replay` runs the same search
from the recording alone, without a model, and fails if it comes to another winner. `--warm DIR` adds the best of an earlier run to
the seeds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cases import DATA, Case, bound_of, load, others, seeds

from autopoiesis.policy.jail import Jail, Limits
from autopoiesis.policy.language import policy_hash
from autopoiesis.simulator.intervals.bound import Bound
from autopoiesis.synthesizer.budget import Budget
from autopoiesis.synthesizer.budget import Limits as Spend
from autopoiesis.synthesizer.candidates import Scored
from autopoiesis.synthesizer.evolution import Evolution
from autopoiesis.synthesizer.llm import LanguageModel, Model
from autopoiesis.synthesizer.plans import MODULE, PlanRuns, PlanScorer, situation_of_trace
from autopoiesis.synthesizer.proposers.llm import Call, LlmProposer
from autopoiesis.synthesizer.recorded import RecordedModel, Recording
from autopoiesis.synthesizer.settings import LlmSettings
from autopoiesis.synthesizer.situation import Situation

CANDIDATE = Limits(wall_s=600.0, cpu_s=90.0)
"""Of one candidate on the trace. What needs longer has lost anyway."""
WARM = 5
"""Policies taken over from an earlier run."""
DAY_S = 86_400.0
REPEATS = 1
"""Scheduling time is measured once here; `run.py` takes the median of several."""


@dataclass(frozen=True, slots=True)
class Asked:
    """How a synthesis is run; kept with what came of it. `seeds` are the sources it begins with, by name, the incumbent last."""

    proposals: int
    population: int
    islands: int
    accounting: str
    seed: int
    seeds: Mapping[str, str]
    warm: tuple[str, ...] = ()
    told_apart_by_speed: bool = True
    """Policies that decide the same count as different ones where one takes far less time to."""
    unseen: int = 0
    """Generated traces that count for half of the fitness and that prompts do not show."""


async def evolve(
    case: Case, asked: Asked, model: Model, recording: Recording, jail: Jail | None
) -> Evolution:
    """Run the search to its end; the recording then holds all of it."""
    runs = {"runs": PlanRuns(case.trace, case.assumptions, jail, repeats=REPEATS, recorded=recording.runs())}
    for number, trace in enumerate(others(case, asked.unseen)):
        name = f"unseen{number}"
        runs[name] = PlanRuns(trace, case.assumptions, jail, repeats=REPEATS, recorded=recording.runs(name))
    call_s = case.evolved_per_call_s
    bound = bound_of(case)
    budget = Budget(Spend(DAY_S, asked.proposals, asked.proposals, 10**9, 0.0))
    evolution = Evolution(
        f"paper/{case.key}",
        "plan",
        PlanScorer(
            runs["runs"],
            least_s=call_s if asked.accounting == "paper" else 0.0,
            extra_s=call_s if asked.accounting == "both" else 0.0,
            optima=bound.optima if bound else (),
            by_speed=asked.told_apart_by_speed,
            unseen=[on for name, on in runs.items() if name != "runs"],
        ),
        budget,
        asked.population,
        _situation(case, asked, bound),
        seed=asked.seed,
        islands=asked.islands,
    )

    answers = itertools.count(1)

    def keep_runs() -> None:
        for name, on in runs.items():
            recording.keep_runs(on.results, name)

    async def keep(call: Call) -> None:
        keep_runs()
        await recording.keep_call(call)
        came_of_it = call.candidate[:12] or call.error.splitlines()[0][:100]
        print(f"answer {next(answers)}: {came_of_it}", flush=True)

    known = [scored(source, name) for name, source in asked.seeds.items()]
    warm = [scored(source, "from an earlier run", "archive") for source in asked.warm]
    await evolution.begin(known[-1], [*known, *warm])
    report(evolution)
    await evolution.run([LlmProposer(model, budget, keep, failures=evolution.failures)])
    if jail is not None:
        keep_runs()
    return evolution


def _situation(case: Case, asked: Asked, bound: Bound | None) -> Situation:
    known = situation_of_trace(case.trace)
    lines = [*known.workload, *case.rules]
    if asked.accounting == "both" and case.evolved_per_call_s:
        lines.append(
            f"each call of schedule is charged {case.evolved_per_call_s:.2f} s on top of its processor time"
        )
    if asked.unseen:
        lines.append(
            f"half of the fitness (unseen_ratio) is how a policy does on {asked.unseen} other traces of this kind that are not shown here: "
            "loads, lengths, regimes and machines differ there, so what is true of this trace alone does not help; ctx.history tells"
        )
    if bound is not None:
        lines.append(
            f"with mixed replicas no policy, not even one that knows the future and plans in no time, takes less than {bound.total_s:.1f} s in all"
        )
    return replace(known, workload=lines)


def scored(source: str, title: str, origin: Any = "library") -> Scored:
    return Scored(policy_hash(source, "plan"), source, "plan", origin, title=title)


def report(evolution: Evolution) -> None:
    """The best so far, and what it costs."""
    for policy in evolution.archive.ranked()[:5]:
        costs = policy.result.breakdown if policy.result else {}
        parts = "  ".join(f"{name} {value:.4g}" for name, value in costs.items())
        print(
            f"{policy.fitness:.4f}  {policy.origin:8}  {policy.hash[:12]}  {parts}  {policy.title[:70]}",
            flush=True,
        )


def lineage(evolution: Evolution, winner: Scored, asked: Asked) -> dict[str, Any]:
    """The winner's ancestors with their sources, and every candidate's fitness."""
    known = {p.hash: p for p in [*evolution.tried, *evolution.archive.ranked(), evolution.incumbent]}
    ancestors, waiting = {}, [winner.hash]
    while waiting:
        policy = known.get(waiting.pop())
        if policy is not None and policy.hash not in ancestors:
            ancestors[policy.hash] = entry(policy) | {"source": policy.source}
            waiting += policy.parents
    return {
        "winner": winner.hash,
        "asked": asdict(asked),
        "ancestors": ancestors,
        "candidates": [entry(p) for p in evolution.tried if p.origin == "llm"],
        "failures": len(evolution.failures),
        "arms": evolution.arms(),
    }


def entry(policy: Scored) -> dict[str, Any]:
    return {
        "hash": policy.hash,
        "parents": list(policy.parents),
        "origin": policy.origin,
        "title": policy.title,
        "fitness": policy.fitness,
        "costs": dict(policy.result.breakdown) if policy.result else {},
    }


def best(evolution: Evolution) -> Scored:
    """The best that a model wrote. Raises ValueError where none came through."""
    written = [p for p in evolution.finished() if p.origin == "llm"]
    if not written:
        raise ValueError("no proposal came through: see the failures in the log")
    return written[0]


def keep(folder: Path, evolution: Evolution, asked: Asked) -> None:
    winner = best(evolution)
    (folder / "winner.py").write_text(winner.source)
    text = json.dumps(lineage(evolution, winner, asked), indent=1, allow_nan=False, default=str)
    (folder / "lineage.json").write_text(text + "\n")


def warm_sources(folder: Path) -> tuple[str, ...]:
    """The winner of an earlier run and its ancestors that a model wrote, best first."""
    told = json.loads((folder / "lineage.json").read_text())
    written = [a for a in told["ancestors"].values() if a["origin"] == "llm"]
    return tuple(a["source"] for a in sorted(written, key=lambda a: -a["fitness"])[:WARM])


def replayed(folder: Path, evolution: Evolution) -> int:
    """0 if the replay came to the winner that is kept, 1 if not."""
    told: Mapping[str, Any] = json.loads((folder / "lineage.json").read_text())
    winner = best(evolution)
    same = winner.hash == told["winner"]
    print(
        f"replay: winner {winner.hash[:12]}, {'as recorded' if same else 'recorded was ' + told['winner'][:12]}"
    )
    return 0 if same else 1


async def main(given: argparse.Namespace) -> int:
    case = load(given.data)[given.case]
    folder = given.folder or case.folder
    recording = Recording(folder)
    warm = warm_sources(given.warm) if given.warm else ()
    asked = Asked(
        proposals=given.proposals,
        population=given.population,
        islands=given.islands,
        accounting=given.accounting,
        seed=given.seed,
        seeds=seeds(case),
        warm=warm,
        unseen=given.unseen,
    )
    if given.replay:
        asked = Asked(**json.loads((folder / "lineage.json").read_text())["asked"])
        recorded = RecordedModel(recording.completions())
        evolution = await evolve(case, asked, recorded, recording, None)
        report(evolution)
        print(f"{recorded.reworded} of {len(recording.completions())} prompts are worded otherwise by now")
        return replayed(folder, evolution)
    live: LanguageModel | None = None
    if given.finish:
        asked = replace(asked, proposals=len(recording.completions()))
    else:
        live = LanguageModel(
            LlmSettings(
                base_url=given.base_url, model=given.model, timeout_s=given.timeout, max_tokens=16_384
            )
        )
    with Jail((MODULE,), workers=given.jobs, limits=CANDIDATE) as jail:
        evolution = await evolve(
            case, asked, RecordedModel(recording.completions(), otherwise=live), recording, jail
        )
    if live is not None:
        await live.close()
    report(evolution)
    keep(folder, evolution, asked)
    return 0


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--case", required=True, help="table2/volatile, table3/stable, fig7/SpotServe/MAF2, …"
    )
    parser.add_argument(
        "--data", type=Path, default=DATA, help="folder with the paper's traces.json and figure7.json"
    )
    parser.add_argument("--base-url", default="", help="an OpenAI-compatible endpoint")
    parser.add_argument("--model", default="unnamed", help="its name at the endpoint")
    parser.add_argument("--timeout", type=float, default=7200.0, help="seconds to wait for one answer")
    parser.add_argument(
        "--proposals", type=int, default=48, help="questions, repairs of invalid answers among them"
    )
    parser.add_argument(
        "--population", type=int, default=8, help="proposals per generation, asked at the same time"
    )
    parser.add_argument("--islands", type=int, default=3)
    parser.add_argument("--accounting", choices=("measured", "paper", "both"), default="measured", help="paper: a call costs at least what the paper's own policy took; both: that on top")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="candidates evaluated at the same time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="of the recording, if not evolved/<case>")
    parser.add_argument("--warm", type=Path, help="folder of an earlier run")
    parser.add_argument(
        "--unseen", type=int, default=2, help="generated traces that count for half of the fitness"
    )
    parser.add_argument("--finish", action="store_true")
    parser.add_argument("--replay", action="store_true")
    return parser.parse_args(words)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    sys.exit(asyncio.run(main(arguments())))
