"""From replays to one number: goodput relative to the incumbent's, less what the evaluator would refuse."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from autopoiesis.contracts.messages.policy import Score
from autopoiesis.synthesizer.candidates import Result
from autopoiesis.synthesizer.replay import Pass

PENALTY = 0.5
"""Fitness lost where a bound is broken, and again as much at twice the bound: a slope back into what is allowed."""

MOVES = 16
"""Of a plan policy's replay, that are told to proposers."""


Objective = Callable[[Pass, Pass], float]
"""A candidate's replay against the incumbent's of the same load and seed: 1 if they are equal, more where the candidate is better.

Its docstring's first line is told to proposers.
"""


def goodput(ours: Pass, theirs: Pass) -> float:
    """Goodput divided by the incumbent's"""
    return _ratio(ours.goodput, theirs.goodput)


def first_token(ours: Pass, theirs: Pass) -> float:
    """The incumbent's 95th percentile of the time to the first token divided by the candidate's, less what the candidate rejects more"""
    return _ratio(theirs.ttft_p95_s, ours.ttft_p95_s) - _rejects_more(ours, theirs)


def pace(ours: Pass, theirs: Pass) -> float:
    """The incumbent's 95th percentile of the time per output token divided by the candidate's, less what the candidate rejects more"""
    return _ratio(theirs.tpot_p95_s, ours.tpot_p95_s) - _rejects_more(ours, theirs)


OBJECTIVES: Mapping[str, Objective] = {"goodput": goodput, "first-token": first_token, "pace": pace}


def _ratio(above: float, below: float) -> float:
    return (above + 1e-9) / (below + 1e-9)


def _rejects_more(ours: Pass, theirs: Pass) -> float:
    return max(0, ours.rejected - theirs.rejected) / max(ours.arrivals, 1)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What no proposal may exceed; the evaluator's own bounds decide in the end."""

    max_rejected: float
    """Share of arrivals, at any load."""
    max_class_loss: float
    """Attainment that any class loses against the incumbent, at any load."""
    max_fuel: float
    """Mean per request."""


def judge(
    ours: Sequence[Pass], theirs: Sequence[Pass], bounds: Bounds, stage: int, objective: Objective = goodput
) -> Result:
    """`ours` against the incumbent's passes at the same loads and seeds, in the same order."""
    ratios = [objective(a, b) for a, b in zip(ours, theirs, strict=True)]
    broken = _excess(ours, theirs, bounds)
    faults = sum(p.faults for p in ours)
    fitness = sum(ratios) / len(ratios) - PENALTY * sum(broken) - (1.0 if faults else 0.0)
    return Result(
        fitness=fitness,
        scores=tuple(_score([p for p in ours if p.load == load]) for load in sorted({p.load for p in ours})),
        breakdown=_breakdown(ours),
        faults=faults,
        stage=stage,
        artifact=_told(ours),
    )


def _excess(ours: Sequence[Pass], theirs: Sequence[Pass], bounds: Bounds) -> list[float]:
    """Relative excess over each bound plus one, for the bounds that are broken."""
    rejected = max(p.rejected / max(p.arrivals, 1) for p in ours)
    lost = max((_loss(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)
    fuel = sum(p.fuel for p in ours) / max(sum(p.arrivals for p in ours), 1)
    pairs = ((rejected, bounds.max_rejected), (lost, bounds.max_class_loss), (fuel, bounds.max_fuel))
    return [min(value / max(bound, 1e-9), 3.0) for value, bound in pairs if value > bound]


def _loss(ours: Pass, theirs: Pass) -> float:
    """The most attainment that a class loses."""
    shares = {
        name: theirs.classes[name][0] / theirs.classes[name][1] - met / count
        for name, (met, count) in ours.classes.items()
        if name in theirs.classes
    }
    return max(shares.values(), default=0.0)


def _score(passes: Sequence[Pass]) -> Score:
    arrivals = max(sum(p.arrivals for p in passes), 1)
    return Score(
        load=passes[0].load,
        goodput=sum(p.met for p in passes) / max(sum(p.span_s for p in passes), 1e-9),
        attainment=sum(p.met for p in passes) / arrivals,
        rejected=sum(p.rejected for p in passes) / arrivals,
        ttft_p95_s=max(p.ttft_p95_s for p in passes),
        tpot_p95_s=max(p.tpot_p95_s for p in passes),
    )


def _breakdown(passes: Sequence[Pass]) -> dict[str, float]:
    totals: dict[str, tuple[int, int]] = {}
    for found in passes:
        for kind, slices in (("class", found.classes), ("gpu", found.gpus)):
            for name, (met, count) in slices.items():
                before = totals.get(f"{kind} {name}", (0, 0))
                totals[f"{kind} {name}"] = (before[0] + met, before[1] + count)
    planned = [found.planned for found in passes if found.planned]
    costs = (
        {
            "moves": fmean(len(p.moves) for p in planned),
            "scheduling s": fmean(p.scheduling_s for p in planned),
            "loading share of GPU time": sum(p.loading_gpu_s for p in planned)
            / sum(p.gpu_s for p in planned),
        }
        if planned
        else {}
    )
    return {name: met / count for name, (met, count) in totals.items()} | costs


def _told(passes: Sequence[Pass]) -> str:
    """What a plan policy did at the last load, move by move, and how attainment went with it; empty for dispatch policies."""
    last = passes[-1]
    if last.planned is None:
        return ""
    stretch = last.span_s / max(len(last.attained), 1)
    lines = [f"at load {last.load:g}, attainment in stretches of {stretch:.0f} s: "]
    lines[0] += " ".join(f"{share:.2f}" for share in last.attained)
    for move in last.planned.moves[:MOVES]:
        plan = " + ".join(f"{count} x {gpu}/tp{tp}" for gpu, tp, _, count in move.counts)
        lines.append(f"at {move.at_s:.0f} s to {plan or 'nothing'}")
    if (more := len(last.planned.moves) - MOVES) > 0:
        lines.append(f"and {more} more moves")
    lines += [f"fault, {count} times: {what}" for what, count in last.planned.faults.items()]
    return "\n".join(lines)
