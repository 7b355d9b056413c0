"""Operators: each changes a syntax tree in place and says what it did, or returns None where it does not apply."""

import ast
import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from autopoiesis.synthesizer.mutation import vocabulary
from autopoiesis.synthesizer.mutation.trees import (
    REPLICA,
    Rename,
    Site,
    addends,
    after_docstring,
    free_names,
    function,
    numbers,
    sites,
)
from autopoiesis.synthesizer.mutation.vocabulary import Phrase

Operator = Callable[[ast.Module, Random, Sequence[ast.Module]], str | None]
"""(tree to change, random numbers, other policies' trees) -> what was done."""

_CONSTANT = re.compile(r"\{c\}")
_PORTABLE = frozenset(
    {"request", "ctx", "math", "abs", "min", "max", "float", "int", "len", "round", "pow", "bool", "sum"}
)


def rounded(value: float, digits: int = 3) -> float:
    """`value` to so many significant digits: constants that people can read."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))


def write(phrase: Phrase, rng: Random, variable: str = REPLICA) -> ast.expr:
    """The phrase as an expression about `variable`, its constants drawn."""

    def draw(_: re.Match[str]) -> str:
        return repr(rounded(math.exp(rng.uniform(math.log(phrase.low), math.log(phrase.high)))))

    expression = ast.parse(_CONSTANT.sub(draw, phrase.text), mode="eval").body
    renamed: ast.expr = Rename(REPLICA, variable).visit(expression)
    return renamed


def weighted(expression: ast.expr, weight: float) -> ast.expr:
    return ast.BinOp(ast.Constant(rounded(weight)), ast.Mult(), expression)


def weighted_sum(
    phrases: Mapping[str, Phrase], rng: Random, count: int, variable: str = REPLICA
) -> tuple[ast.expr, list[str]]:
    """A sum of `count` different phrases with log-normal weights, and their names."""
    names = rng.sample(sorted(phrases), count)
    parts = [weighted(write(phrases[name], rng, variable), rng.lognormvariate(0.0, 1.0)) for name in names]
    total = parts[0]
    for part in parts[1:]:
        total = ast.BinOp(total, ast.Add(), part)
    return total, names


def perturb(tree: ast.Module, rng: Random, mates: Sequence[ast.Module]) -> str | None:
    """Multiply a few constants by log-normal factors."""
    found = numbers(tree)
    if not found:
        return None
    chosen = rng.sample(found, min(len(found), rng.choice((1, 1, 2, 3))))
    spread = rng.choice((0.15, 0.5, 1.2))
    changes = []
    for node in chosen:
        before = node.value
        assert isinstance(before, int | float)
        node.value = _moved(before, rng.gauss(0.0, spread))
        changes.append(f"{before:g} to {node.value:g}")
    return f"constant {', '.join(changes)}"


def _moved(before: float, step: float) -> float:
    """`before` times exp(step); whole numbers stay whole, zero moves by the step itself."""
    if isinstance(before, int):
        return round(before * math.exp(step)) if abs(before) > 2 else before + (1 if step > 0 else -1)
    return rounded(before * math.exp(step)) if before and math.isfinite(before) else rounded(step)


def add_term(tree: ast.Module, rng: Random, mates: Sequence[ast.Module]) -> str | None:
    """Add a weighted term to a score."""
    if (site := _site(tree, rng)) is None:
        return None
    name = rng.choice(sorted(vocabulary.TERMS))
    term = weighted(write(vocabulary.TERMS[name], rng, site.variable), rng.lognormvariate(-0.5, 1.0))
    site.expression = ast.BinOp(site.expression, ast.Add() if site.sign > 0 else ast.Sub(), term)
    return f"score also weighs {name}"


def drop_term(tree: ast.Module, rng: Random, mates: Sequence[ast.Module]) -> str | None:
    """Take one term out of a score that is a sum."""
    if (site := _site(tree, rng)) is None:
        return None
    operands = addends(site.expression)
    if not operands:
        return None
    parent, side = rng.choice(operands)
    kept = parent.right if side == "left" else parent.left
    if side == "left" and isinstance(parent.op, ast.Sub):
        kept = ast.UnaryOp(ast.USub(), kept)
    dropped = parent.left if side == "left" else parent.right
    site.expression = _Replace(parent, kept).expression(site.expression)
    return f"score without {ast.unparse(dropped)[:60]}"


def weigh_term(tree: ast.Module, rng: Random, mates: Sequence[ast.Module]) -> str | None:
    """Give one operand of a sum a weight of its own."""
    if (site := _site(tree, rng)) is None:
        return None
    operands = addends(site.expression)
    if not operands:
        return None
    parent, side = rng.choice(operands)
    weight = rng.lognormvariate(0.0, 0.8)
    setattr(parent, side, weighted(getattr(parent, side), weight))
    return f"a term weighted by {weight:.2g}"


def replace_score(tree: ast.Module, rng: Random, mates: Sequence[ast.Module]) -> str | None:
    """A score made anew of a few terms."""
    if (site := _site(tree, rng)) is None:
        return None
    total, names = weighted_sum(vocabulary.TERMS, rng, rng.randint(2, 4), site.variable)
    site.expression = total if site.sign > 0 else ast.UnaryOp(ast.USub(), total)
    return f"score of {', '.join(names)}"


def rank_first(tree: ast.Module, rng: Random, mates: Sequence[ast.Module]) -> str | None:
    """Decide by a new term first, by the old score among equals."""
    keys = [s for s in sites(tree) if isinstance(s.holder, ast.Lambda) and s.index is None]
    if not keys:
        return None
    site = rng.choice(keys)
    name = rng.choice(
        [n for n in sorted(vocabulary.TERMS) if n in {"late", "slow", "memory full", "session"}]
    )
    term = write(vocabulary.TERMS[name], rng, site.variable)
    first = term if site.sign > 0 else ast.UnaryOp(ast.USub(), term)
    site.expression = ast.Tuple([first, site.expression], ast.Load())
    return f"{name} decides first"


def mix_scores(tree: ast.Module, rng: Random, mates: Sequence[ast.Module]) -> str | None:
    """Weighted sum of this policy's score and another's."""
    site = _site(tree, rng)
    donors = [
        s for mate in mates for s in sites(mate) if free_names(s.expression) <= _PORTABLE | {s.variable}
    ]
    if site is None or not donors:
        return None
    donor = rng.choice(donors)
    taken = Rename(donor.variable, site.variable).visit(copy.deepcopy(donor.expression))
    agree = donor.sign == site.sign
    term = weighted(taken, rng.lognormvariate(-0.5, 1.0))
    site.expression = ast.BinOp(site.expression, ast.Add() if agree else ast.Sub(), term)
    return "score mixed with another policy's"


def take_function(tree: ast.Module, rng: Random, mates: Sequence[ast.Module]) -> str | None:
    """Another policy's whole `prioritize`, where it needs nothing else of its file."""
    donors = [f for mate in mates if (f := function(mate, "prioritize")) and free_names(f) <= _PORTABLE]
    own = function(tree, "prioritize")
    if not donors or own is None:
        return None
    tree.body[tree.body.index(own)] = copy.deepcopy(rng.choice(donors))
    return "queue order of another policy"


def narrow(tree: ast.Module, rng: Random, mates: Sequence[ast.Module]) -> str | None:
    """Consider only replicas that pass a filter, or all if none does."""
    route = function(tree, "route")
    if route is None or len(route.args.args) != 3:
        return None
    replicas = route.args.args[1].arg
    uses: list[tuple[ast.AST, str]] = []
    for node in ast.walk(route):
        match node:
            case ast.For(iter=ast.Name(id=name)) if name == replicas:
                uses.append((node, "iter"))
            case ast.Call(func=ast.Name(id="min" | "max"), args=[ast.Name(id=name)]) if name == replicas:
                uses.append((node, "args"))
    if not uses:
        return None
    name = rng.choice(sorted(vocabulary.FILTERS))
    test = ast.unparse(write(vocabulary.FILTERS[name], rng))
    pool = ast.parse(f"[{REPLICA} for {REPLICA} in {replicas} if {test}] or {replicas}", mode="eval").body
    holder, field = rng.choice(uses)
    setattr(holder, field, [pool] if field == "args" else pool)
    return f"only replicas where: {name}"


def guard(tree: ast.Module, rng: Random, mates: Sequence[ast.Module]) -> str | None:
    """HOLD or REJECT under a condition, before anything else is decided."""
    route = function(tree, "route")
    if route is None or [a.arg for a in route.args.args] != ["request", "replicas", "ctx"]:
        return None
    verdict, phrases = rng.choice((("HOLD", vocabulary.HOLDS), ("REJECT", vocabulary.REJECTS)))
    name = rng.choice(sorted(phrases))
    condition = ast.If(write(phrases[name], rng), [ast.Return(ast.Name(verdict, ast.Load()))], [])
    route.body.insert(after_docstring(route.body), condition)
    return f"{verdict} when {name}"


def drop_guard(tree: ast.Module, rng: Random, mates: Sequence[ast.Module]) -> str | None:
    """Remove one condition that holds or rejects."""
    guards = [
        (node.body, statement)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.For | ast.If)
        for statement in node.body
        if isinstance(statement, ast.If) and not statement.orelse and _is_verdict(statement.body[-1])
    ]
    if not guards:
        return None
    body, statement = rng.choice(guards)
    if len(body) == 1:
        return None
    body.remove(statement)
    return f"no longer: {ast.unparse(statement.body[-1])} when {ast.unparse(statement.test)[:60]}"


def margin(tree: ast.Module, rng: Random, mates: Sequence[ast.Module]) -> str | None:
    """Tighten or loosen the right side of a comparison of measured quantities."""
    tests = [n for n in ast.walk(tree) if isinstance(n, ast.Compare) and len(n.ops) == 1 and _is_bound(n)]
    if not tests:
        return None
    test = rng.choice(tests)
    factor = rng.lognormvariate(0.0, 0.2)
    test.comparators[0] = weighted(test.comparators[0], factor)
    return f"bound {ast.unparse(test)[:60]}"


def order(tree: ast.Module, rng: Random, mates: Sequence[ast.Module]) -> str | None:
    """A new queue order, or one more term in it."""
    own = function(tree, "prioritize")
    if own is None or [a.arg for a in own.args.args] != ["request", "ctx"]:
        return None
    final = own.body[-1]
    if (
        rng.random() < 0.5
        and isinstance(final, ast.Return)
        and final.value is not None
        and not isinstance(final.value, ast.Tuple)
    ):
        total, names = weighted_sum(vocabulary.ORDERS, rng, 1)
        final.value = ast.BinOp(final.value, ast.Add(), total)
        return f"queue also ordered by {names[0]}"
    total, names = weighted_sum(vocabulary.ORDERS, rng, rng.randint(1, 3))
    own.body = [ast.Return(total)]
    return f"queue ordered by {', '.join(names)}"


def _site(tree: ast.Module, rng: Random) -> Site | None:
    found = sites(tree)
    return rng.choice(found) if found else None


def _is_verdict(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Return)
        and isinstance(statement.value, ast.Name)
        and statement.value.id in {"HOLD", "REJECT"}
    )


def _is_bound(test: ast.Compare) -> bool:
    measured = isinstance(test.comparators[0], ast.Attribute | ast.BinOp | ast.Call)
    return isinstance(test.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE) and measured


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.expr) -> None:
        self._old, self._new = old, new

    def expression(self, root: ast.expr) -> ast.expr:
        replaced: ast.expr = self.visit(root)
        return replaced

    def visit(self, node: ast.AST) -> Any:
        return self._new if node is self._old else super().visit(node)


DISPATCH: tuple[tuple[Operator, float], ...] = (
    (perturb, 4.0),
    (add_term, 3.0),
    (drop_term, 1.0),
    (weigh_term, 1.0),
    (replace_score, 0.5),
    (rank_first, 1.0),
    (mix_scores, 1.5),
    (take_function, 0.5),
    (narrow, 2.0),
    (guard, 1.0),
    (drop_guard, 0.7),
    (margin, 1.5),
    (order, 1.0),
)
"""Operators and how often they are drawn."""

PLAN: tuple[tuple[Operator, float], ...] = ((perturb, 1.0),)
