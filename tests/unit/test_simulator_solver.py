"""Integer programs: right answers, bounds that hold, clear refusals."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from autopoiesis.simulator.solver import HighsMilp


def knapsack(items: int, seed: int, rows: int = 1) -> HighsMilp:
    draw = random.Random(seed)
    program = HighsMilp()
    for _ in range(items):
        program.variable(0, 1, -draw.randint(1, 20))
    for _ in range(rows):
        program.constraint({i: draw.randint(1, 20) for i in range(items)}, -math.inf, 5 * items)
    return program


@pytest.mark.parametrize("seed", range(5))
def test_finds_what_enumeration_finds(seed: int) -> None:
    draw = random.Random(seed)
    values = [draw.randint(1, 20) for _ in range(8)]
    weights = [draw.randint(1, 20) for _ in range(8)]
    best = max(
        sum(v for v, take in zip(values, taken, strict=True) if take)
        for taken in itertools.product((0, 1), repeat=8)
        if sum(w for w, take in zip(weights, taken, strict=True) if take) <= 40
    )
    program = HighsMilp()
    for value in values:
        program.variable(0, 1, -value)
    program.constraint(dict(enumerate(weights)), -math.inf, 40)
    found = program.solve(gap=0.0)
    assert (found.status, round(-found.objective)) == ("optimal", best)
    assert sum(w * x for w, x in zip(weights, found.x, strict=True)) <= 40


def test_a_node_limit_ends_a_hard_program_with_what_it_has_and_always_the_same() -> None:
    first, second = (
        knapsack(120, 1, rows=30).solve(node_limit=3, time_limit=60.0, gap=0.0) for _ in range(2)
    )
    assert first.status == "feasible"
    assert first == second


def test_no_solution_is_said() -> None:
    program = HighsMilp()
    program.variable(0, 1, 1.0)
    program.constraint({0: 1.0}, 2.0, 3.0)
    found = program.solve()
    assert (found.status, found.objective, found.x) == ("infeasible", math.inf, ())


def test_an_empty_program_costs_nothing() -> None:
    assert HighsMilp().solve().objective == 0.0


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda p: p.variable(1, 0, 0.0), "leave no value"),
        (lambda p: p.variable(0, 1, math.inf), "cost of a variable is finite"),
        (lambda p: p.constraint({3: 1.0}, 0, 1), "names a variable from 0 to"),
        (lambda p: p.constraint({0: math.nan}, 0, 1), "coefficients are finite"),
        (lambda p: p.solve(node_limit=0), "node_limit is 0"),
        (lambda p: p.solve(time_limit=math.inf), "time_limit is above 0"),
    ],
)
def test_nonsense_is_refused(build: object, says: str) -> None:
    program = HighsMilp()
    program.variable(0, 1, 1.0)
    with pytest.raises(ValueError, match=says):
        build(program)  # type: ignore[operator]
