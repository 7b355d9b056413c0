"""Evolve dispatch policies on a trace and a fleet of one's own, in a folder that keeps everything."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autopoiesis.policy import library
from autopoiesis.policy.jail import Jail
from autopoiesis.policy.jail import Limits as Bounded
from autopoiesis.simulator import Fleet, Trace, compare
from autopoiesis.simulator.api import Goals, LoadUnit, capacity, objectives
from autopoiesis.simulator.requests.recorded import window_of
from autopoiesis.simulator.workload.window import Window, pack
from autopoiesis.synthesizer.budget import Budget, Limits
from autopoiesis.synthesizer.candidates import Scored, shipped
from autopoiesis.synthesizer.evolution import Evolution
from autopoiesis.synthesizer.fitness import Bounds, Objective, goodput
from autopoiesis.synthesizer.llm import LanguageModel
from autopoiesis.synthesizer.offline.found import Arm, Found, Tried
from autopoiesis.synthesizer.offline.journal import Journal
from autopoiesis.synthesizer.proposers.base import Proposer
from autopoiesis.synthesizer.proposers.llm import LlmProposer
from autopoiesis.synthesizer.proposers.mutator import Mutator
from autopoiesis.synthesizer.recorded import RecordedModel, Recording
from autopoiesis.synthesizer.replay import MODULES, SIMULATOR, Replays
from autopoiesis.synthesizer.scoring import Plan, WindowScorer
from autopoiesis.synthesizer.settings import LlmSettings
from autopoiesis.synthesizer.situation import situation_of

BOUNDS = Bounds(max_rejected=0.1, max_class_loss=0.05, max_fuel=50_000.0)
YEAR_S = 365 * 86_400.0
FINALISTS = 3
"""Seeds that are measured on the held-out traffic beside the winner and the incumbent."""
HELD_OUT_SEEDS = (201, 202)
"""Not those that candidates were scored or checked with."""
MAY_GROW = frozenset({"candidates", "calls", "tokens", "cost", "seconds", "replay_s"})
"""What may be another at a second run in the same folder."""

Progress = Callable[[int, int, float], None]
"""Called after each generation with the candidates so far, all there may be, and the best fitness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How a search is run. Without a language model and without `seconds` the same search finds the same, wherever it runs."""

    candidates: int = 200
    """Policies that are scored beside the seeds."""
    population: int = 8
    """Candidates per generation."""
    islands: int = 1
    """Populations that breed apart."""
    seed: int = 0
    loads: tuple[float, ...] = (0.9, 1.0, 1.15, 1.3)
    load_unit: LoadUnit = "trace"
    """What load 1 is: the trace as recorded, or the fleet's capacity for its requests."""
    objective: Objective = goodput
    bounds: Bounds = BOUNDS
    """What costs fitness; as the evaluator's gates."""
    min_gain: float = 0.01
    """By which the winner must beat the incumbent, also on fresh seeds."""
    holdout: float = 0.3
    """Share of the trace's time, at its end, that the search never sees; 0 for none."""
    arrivals: int = 3000
    """The newest of the rest, on which candidates are scored; 0 for all of them."""
    calls: int = 100
    """Of the language model, where one is given."""
    tokens: int = 10_000_000
    cost: float = 10.0
    """Money, by the prices in its settings."""
    seconds: float = YEAR_S
    """A bound in time makes what is found depend on the machine."""
    replay_s: float = 60.0
    """After which one replay of a candidate is given up."""


def evolve(
    trace: Trace,
    fleet: Fleet | str,
    slo: Goals = None,
    search: Search | None = None,
    *,
    folder: Path | str,
    start: str | Path = "round_robin",
    seeds: Mapping[str, str | Path] | None = None,
    model: str = "Llama-3.1-8B",
    routers: int = 1,
    llm: LlmSettings | None = None,
    proposers: Sequence[Proposer] | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Found:
    """Search a dispatch policy that beats `start` on the trace, and compare it on the held-out end of it.

    `start` and the values of `seeds` are library names, files or source texts; without `seeds` all shipped policies breed. `llm` is asked
    first where it is given, then `proposers`, which are the offline mutator unless others are named. Everything is kept in `folder`:
    run again there, with the same arguments, the search goes on where it was, `search.candidates` and what it may spend larger or not.
    With several `jobs` the caller's module must be importable, as `multiprocessing` wants it.
    Raises PolicyError for a start or seed that does not verify, FailedReplayError where the start cannot be replayed, ValueError for
    what makes no sense, and for a folder of another search.
    """
    asked = search or Search()
    place = Fleet.parse(fleet, model) if isinstance(fleet, str) else fleet
    goals = objectives(slo, trace.classes)
    seen, unseen = _halves(trace, asked)
    window = window_of(seen, place, goals, routers=routers)
    incumbent = _named(start, "the start")
    bred = shipped("dispatch") if seeds is None else [_named(text, name) for name, text in seeds.items()]
    kept = Path(folder)
    kept.mkdir(parents=True, exist_ok=True)
    _claim(kept, asked, window, unseen, [incumbent, *bred])
    unit = capacity(place, seen) / seen.rate if asked.load_unit == "capacity" else 1.0
    loads = tuple(round(load * unit, 4) for load in asked.loads)
    run = _Run(asked, window, loads, incumbent, bred, kept, llm, proposers, jobs, progress)
    found = _now(run.found())
    if found.winner is not None and unseen is not None:
        held_out = compare(
            _finalists(found), unseen, place, goals, loads, HELD_OUT_SEEDS, routers=routers, processes=jobs
        )
        found = replace(found, holdout=held_out)
    found.save()
    return found


@dataclass(frozen=True, slots=True)
class _Run:
    asked: Search
    window: Window
    loads: tuple[float, ...]
    incumbent: Scored
    seeds: Sequence[Scored]
    folder: Path
    llm: LlmSettings | None
    proposers: Sequence[Proposer] | None
    jobs: int
    progress: Progress | None

    async def found(self) -> Found:
        """All but the comparison on held-out traffic."""
        asked = self.asked
        limits = Limits(asked.seconds, asked.candidates, asked.calls, asked.tokens, asked.cost)
        limit = Bounded(wall_s=asked.replay_s, cpu_s=asked.replay_s)
        live = LanguageModel(self.llm) if self.llm is not None else None
        try:
            with Jail(MODULES, workers=self.jobs, limits=limit) as jail:
                runs = Journal(Replays(jail, self.window), self.folder / "replays.jsonl")
                return await self._search(runs, Budget(limits), live)
        finally:
            if live is not None:
                await live.close()

    async def _search(self, runs: Journal, budget: Budget, live: LanguageModel | None) -> Found:
        asked, history = self.asked, _History()

        def watch(generation: int, control: bool) -> None:
            history.add(evolution, generation, "control" if control else "evolved")
            if self.progress is not None:
                self.progress(budget.candidates, asked.candidates, history.best)

        scorer = WindowScorer(runs, Plan(self.loads, asked.bounds, objective=asked.objective))
        evolution = Evolution(
            self.window.info.scope,
            "dispatch",
            scorer,
            budget,
            asked.population,
            _situation(self.window, asked.objective),
            seed=asked.seed,
            islands=asked.islands,
            watch=watch,
        )
        await evolution.begin(self.incumbent, self.seeds)
        history.add(evolution, -1, "seed")
        proposers: list[Proposer] = list(self.proposers) if self.proposers is not None else [Mutator()]
        if live is not None:
            recording = Recording(self.folder)
            known = RecordedModel(recording.completions(), otherwise=live)
            proposers.insert(0, LlmProposer(known, budget, recording.keep_call, failures=evolution.failures))
        await evolution.run(proposers)
        winners = await evolution.winners(1, asked.min_gain)
        return Found(
            self.folder,
            evolution.incumbent,
            winners[0] if winners else None,
            tuple(history.tried),
            evolution.arms(),
            budget.to_json(),
            tuple(evolution.failures),
            None,
        )


class _History:
    """Candidates as they came through their races."""

    def __init__(self) -> None:
        self.tried: list[Tried] = []
        self.best = 1.0

    def add(self, evolution: Evolution, generation: int, arm: Arm) -> None:
        final = {policy.hash for policy in evolution.finished()}
        for policy in evolution.tried[len(self.tried) :]:
            if policy.hash in final:
                self.best = max(self.best, policy.fitness)
            self.tried.append(
                Tried(len(self.tried), generation, arm, policy, policy.hash in final, self.best)
            )


def _halves(trace: Trace, asked: Search) -> tuple[Trace, Trace | None]:
    """What the search may see, and what it may not; both from time zero."""
    if not 0 <= asked.holdout < 1:
        raise ValueError(f"holdout = {asked.holdout:g}: a share of the trace, at least 0 and below 1")
    if len(trace) < 2:
        raise ValueError("the trace has fewer than two requests")
    begin, end = float(trace.arrival[0]), float(trace.arrival[-1])
    cut = end - asked.holdout * (end - begin)
    seen = trace.between(begin, cut) if asked.holdout else trace
    if asked.arrivals and len(seen) > asked.arrivals:
        seen = seen.between(float(seen.arrival[-asked.arrivals]), cut + 1.0)
    unseen = trace.between(cut, end + 1.0) if asked.holdout else None
    if len(seen) < 2 or (unseen is not None and len(unseen) < 2):
        raise ValueError(
            f"holdout = {asked.holdout:g} leaves {len(seen)} requests to search on and {0 if unseen is None else len(unseen)} "
            "to compare on; both need two at least"
        )
    from_zero = [part.shifted(-float(part.arrival[0])) for part in (seen, unseen) if part is not None]
    return from_zero[0], from_zero[1] if unseen is not None else None


def _named(policy: str | Path, title: str) -> Scored:
    """A shipped one by its name, also where its text was given."""
    text = library.text_of(policy, "dispatch")
    names = (name for name in library.names("dispatch", every=True) if library.source(name) == text)
    known = next(names, "")
    return Scored.of(text, "dispatch", known or title, "library" if known else "operator")


def _situation(window: Window, objective: Objective) -> Any:
    known = situation_of(window)
    if objective is goodput:
        return known
    told = (objective.__doc__ or "").strip().partition("\n")[0] or "a measure of its own"
    return replace(
        known, objectives=[*known.objectives, f"`fitness` in this search is not goodput but this: {told}"]
    )


def _finalists(found: Found) -> dict[str, str]:
    """By label, the winner first: by its own name where it is a seed."""
    assert found.winner is not None
    seeds = [one.policy for one in found.tried if one.arm == "seed" and one.final]
    best = sorted(seeds, key=lambda policy: -policy.fitness)[:FINALISTS]
    others = {policy.title: policy.source for policy in (found.incumbent, *best)}
    known = found.winner.source in others.values()
    return others if known else {"winner": found.winner.source} | others


def _claim(folder: Path, asked: Search, window: Window, unseen: Trace | None, policies: list[Scored]) -> None:
    """Note down what is searched. Raises ValueError where the folder is another search's."""
    settings = {name: value for name, value in asdict(asked).items() if name not in MAY_GROW}
    settings["objective"] = asked.objective.__name__
    held_out = b"" if unseen is None else pack(replace(window, trace=unseen))
    told = {
        "simulator": SIMULATOR,
        "traffic and fleet": hashlib.sha256(pack(window)).hexdigest(),
        "held-out traffic": hashlib.sha256(held_out).hexdigest(),
        "start and seeds": [policy.hash for policy in policies],
        "trace": window.trace.name,
        **settings,
    }
    told = json.loads(json.dumps(told))
    file = folder / "run.json"
    if not file.exists():
        file.write_text(json.dumps(told, indent=1) + "\n")
        return
    before = json.loads(file.read_text())
    other = sorted(name for name in before.keys() | told.keys() if before.get(name) != told.get(name))
    if other:
        raise ValueError(
            f"{folder} holds another search ({', '.join(other)} differ): take another folder, or the arguments in {file}"
        )


def _now(work: Coroutine[Any, Any, Found]) -> Found:
    """Run to the end, also from a notebook, whose thread has an event loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
