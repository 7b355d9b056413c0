"""Synthetic workloads, deterministic by seed. Rates are requests (or sessions) per second, times seconds.

Every generator raises `ValueError` naming the argument that makes no sense.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autopoiesis.simulator.workload.trace import Floats, Ints, Trace

Rate = Callable[[Floats], Floats]


def _above_zero(name: str, **values: float) -> None:
    for argument, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}: {argument} = {value}: must be above 0 and finite")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lognormal lengths in tokens: median, sigma of the logarithm, bounds."""

    median: float
    sigma: float
    low: int = 1
    high: int = 32_768

    def __post_init__(self) -> None:
        _above_zero("lengths", median=self.median)
        if self.sigma < 0 or not 1 <= self.low <= self.high:
            raise ValueError(f"{self}: sigma must not be negative, and 1 <= low <= high")

    def draw(self, count: int, rng: np.random.Generator) -> Ints:
        return np.clip(
            np.round(rng.lognormal(np.log(self.median), self.sigma, count)), self.low, self.high
        ).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Mix:
    """One class of requests and its part of the traffic."""

    name: str = "default"
    weight: float = 1.0
    prompt: Lengths = Lengths(800, 0.9)
    output: Lengths = Lengths(180, 0.8, high=4096)


INTERACTIVE = Mix("interactive", 0.7, Lengths(600, 0.8), Lengths(150, 0.7, high=2048))
BATCH = Mix("batch", 0.3, Lengths(2500, 0.7), Lengths(400, 0.6, high=4096))


def poisson(rate: float, duration: float, *, mix: Sequence[Mix] = (Mix(),), seed: int = 0) -> Trace:
    """Steady arrivals."""
    return _requests("poisson", lambda t: np.full(len(t), rate), rate, duration, mix, seed)


def bursts(
    rate: float,
    duration: float,
    *,
    peak: float = 4.0,
    burst_s: float = 10.0,
    calm_s: float = 50.0,
    mix: Sequence[Mix] = (Mix(),),
    seed: int = 0,
) -> Trace:
    """Two-state Markov-modulated Poisson: bursts at `peak` times the calm rate; `rate` is the mean over both."""
    _above_zero("bursts", rate=rate, duration=duration, peak=peak, burst_s=burst_s, calm_s=calm_s)
    calm_rate = rate * (burst_s + calm_s) / (peak * burst_s + calm_s)
    rng = np.random.default_rng([seed, 1])
    turns = max(4, int(4 * duration / (burst_s + calm_s)))
    while True:
        stays = np.stack([rng.exponential(calm_s, turns), rng.exponential(burst_s, turns)], axis=1).ravel()
        edges = np.cumsum(stays)
        if edges[-1] >= duration:
            break
        turns *= 2

    def now(t: Floats) -> Floats:
        bursting = np.searchsorted(edges, t) % 2 == 1
        return np.where(bursting, peak * calm_rate, calm_rate)

    return _requests("bursts", now, peak * calm_rate, duration, mix, seed)


def diurnal(
    rate: float,
    duration: float,
    *,
    swing: float = 0.6,
    period_s: float = 86_400.0,
    mix: Sequence[Mix] = (Mix(),),
    seed: int = 0,
) -> Trace:
    """A sine around the mean: `swing` is the amplitude's share of it, 0 to 1; the lowest point is at time 0."""
    _above_zero("diurnal", period_s=period_s)
    if not 0 <= swing <= 1:
        raise ValueError(f"swing = {swing}: must be from 0 to 1")
    return _requests(
        "diurnal",
        lambda t: rate * (1 - swing * np.cos(2 * np.pi * t / period_s)),
        rate * (1 + swing),
        duration,
        mix,
        seed,
    )


def drift(
    rate: float,
    duration: float,
    *,
    before: Sequence[Mix],
    after: Sequence[Mix],
    at: float = 0.5,
    seed: int = 0,
) -> Trace:
    """The mix moves linearly from `before` to `after`, centred at share `at` of the duration, over a fifth of it.

    Both must name the same classes in the same order.
    """
    if [m.name for m in before] != [m.name for m in after]:
        raise ValueError("drift: before and after must name the same classes in the same order")
    rng = np.random.default_rng([seed, 2])
    old = _requests("drift", lambda t: np.full(len(t), rate), rate, duration, before, seed)
    new = _requests("drift", lambda t: np.full(len(t), rate), rate, duration, after, seed + 1)
    share_old = np.clip((at + 0.1 - old.arrival / duration) / 0.2, 0, 1)
    share_new = 1 - np.clip((at + 0.1 - new.arrival / duration) / 0.2, 0, 1)
    kept_old = old.take(np.flatnonzero(rng.random(len(old)) < share_old))
    kept_new = new.take(np.flatnonzero(rng.random(len(new)) < share_new))
    return merge([kept_old, kept_new], "drift")


def sessions(
    rate: float,
    duration: float,
    *,
    turns: float = 4.0,
    think_s: float = 10.0,
    system_tokens: int = 512,
    mix: Mix = Mix(),
    block_tokens: int = 64,
    closed_loop: bool = True,
    seed: int = 0,
) -> Trace:
    """Conversations that start at `rate` sessions per second: each turn's prompt is all that was said, plus a new message.

    Turns are geometric with that mean; every prompt begins with one shared system prompt. With `closed_loop` a turn
    arrives a think time after the last one ended, else after a recorded gap.
    """
    _above_zero("sessions", rate=rate, duration=duration, block_tokens=block_tokens)
    if turns < 1 or think_s < 0 or system_tokens < 0:
        raise ValueError(
            f"sessions: turns = {turns}, think_s = {think_s}, system_tokens = {system_tokens}: "
            "at least 1, and the others not negative"
        )
    rng = np.random.default_rng([seed, 3])
    starts = np.cumsum(rng.exponential(1 / rate, max(1, rng.poisson(rate * duration))))
    starts = starts[starts < duration]
    counts = rng.geometric(1 / turns, len(starts))
    total = int(counts.sum())
    messages, answers = mix.prompt.draw(total, rng), mix.output.draw(total, rng)
    thinks = rng.exponential(think_s, total)
    arrival, prompt, session, parent = (
        np.empty(total),
        np.empty(total, np.int64),
        np.empty(total, np.int64),
        np.empty(total, np.int64),
    )
    hashes: list[tuple[int, ...]] = []
    row = 0
    shared = system_tokens // block_tokens
    for number, (start, count) in enumerate(zip(starts.tolist(), counts.tolist(), strict=True), 1):
        context, at = system_tokens, start
        for turn in range(count):
            context += int(messages[row])
            arrival[row], prompt[row], session[row] = at, context, number
            parent[row] = row - 1 if turn and closed_loop else -1
            context += int(answers[row])
            own = range(shared, context // block_tokens)
            hashes.append((*range(1, shared + 1), *((number << 24) + block for block in own)))
            at += float(thinks[row]) + 0.02 * float(answers[row])
            row += 1
    first = np.concatenate([[True], session[1:] != session[:-1]]) if total else np.zeros(0, np.bool_)
    return Trace.of(
        "sessions",
        arrival,
        np.minimum(prompt, 1 << 30),
        answers,
        session=session,
        parent=parent,
        think_s=np.where(first, 0.0, np.concatenate([[0.0], thinks[:-1]]) if total else thinks),
        classes=(mix.name,),
        block_hashes=hashes,
        block_tokens=block_tokens,
    )


def merge(traces: Sequence[Trace], name: str = "mixture") -> Trace:
    """Several traces as one; classes of the same name become one. Block hashes are dropped, sessions kept apart."""
    classes = tuple(dict.fromkeys(c for trace in traces for c in trace.classes))
    lookup = [np.array([classes.index(c) for c in trace.classes]) for trace in traces]
    offsets = np.cumsum([0, *(len(t) for t in traces[:-1])])
    strides = np.cumsum([0, *(int(t.session.max(initial=0)) + 1 for t in traces[:-1])])
    return Trace.of(
        name,
        np.concatenate([t.arrival for t in traces]),
        np.concatenate([t.prompt_tokens for t in traces]),
        np.concatenate([t.output_tokens for t in traces]),
        censored=np.concatenate([t.censored for t in traces]),
        session=np.concatenate(
            [np.where(t.session > 0, t.session + s, 0) for t, s in zip(traces, strides, strict=True)]
        ),
        tenant=np.concatenate([t.tenant for t in traces]),
        klass=np.concatenate([table[t.klass] for t, table in zip(traces, lookup, strict=True)]),
        parent=np.concatenate(
            [np.where(t.parent >= 0, t.parent + o, -1) for t, o in zip(traces, offsets, strict=True)]
        ),
        think_s=np.concatenate([t.think_s for t in traces]),
        classes=classes,
    )


def classified(trace: Trace, classes: Sequence[tuple[str, float]], *, seed: int = 0) -> Trace:
    """The same arrivals with classes drawn by weight, one draw per session."""
    weights = np.array([weight for _, weight in classes], float)
    if not len(weights) or (weights < 0).any() or weights.sum() <= 0:
        raise ValueError(f"class weights {weights.tolist()}: must not be negative, and not all zero")
    rng = np.random.default_rng([seed, 4])
    keys = np.where(trace.session > 0, trace.session, -1 - np.arange(len(trace)))
    _, of_row = np.unique(keys, return_inverse=True)
    drawn = rng.choice(len(weights), of_row.max(initial=0) + 1, p=weights / weights.sum())
    return replace(trace, klass=drawn[of_row].astype(np.int64), classes=tuple(name for name, _ in classes))


def _requests(name: str, rate: Rate, top: float, duration: float, mix: Sequence[Mix], seed: int) -> Trace:
    """Arrivals of an inhomogeneous Poisson process by thinning, each with a class and lengths."""
    _above_zero(name, rate=top, duration=duration)
    if not mix or min(m.weight for m in mix) < 0 or sum(m.weight for m in mix) <= 0:
        raise ValueError(f"{name}: mix needs classes with weights that are not negative and not all zero")
    rng = np.random.default_rng([seed, 0])
    times = np.sort(rng.uniform(0, duration, rng.poisson(top * duration)))
    times = times[rng.random(len(times)) * top < rate(times)]
    weights = np.array([m.weight for m in mix])
    klass = rng.choice(len(mix), len(times), p=weights / weights.sum())
    prompt, output = np.ones(len(times), np.int64), np.ones(len(times), np.int64)
    for number, kind in enumerate(mix):
        rows = np.flatnonzero(klass == number)
        prompt[rows], output[rows] = kind.prompt.draw(len(rows), rng), kind.output.draw(len(rows), rng)
    return Trace.of(name, times, prompt, output, klass=klass, classes=tuple(m.name for m in mix))
