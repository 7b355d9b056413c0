"""What code costs before it runs: one unit of fuel per syntax node, a few more per call.

Straight-line code is charged once, where control enters it; the branch that costs more stands for both. A loop charges
its body times its length when it starts; a short one whose length the source tells belongs to the code around it. A
function that is neither recursive nor used as a value is charged where it is called. So neither adds to the running time.
"""

from __future__ import annotations

import ast
from typing import Final

from autopoiesis.policy.language import grammar
from autopoiesis.policy.language.functions import escaping
from autopoiesis.policy.language.module import Module

_CALL: Final = 3
_CONSTRUCTOR: Final = 12
_CLOSURE: Final = 10
_LARGE: Final = 2_000
"""A function that costs more charges itself, so that branches which do not call it stay cheap."""
SHORT: Final = 200
"""A loop that costs more in all charges itself, for the same reason."""


class Costs:
    """Fuel per function and per piece of code of a verified module."""

    def __init__(self, module: Module) -> None:
        self._functions = module.known
        self._constants = module.constants
        self.guarded = escaping(module) | _recursive(module)
        """Functions that charge themselves when called."""
        self.called = {
            name for function in self._functions.values() for name in _calls(function, self._functions)
        }
        """Functions that the module itself calls or passes on."""
        self.of_function: dict[str, int] = {}
        for name in _callees_first(module):
            cost = self.block(self._functions[name].body)
            self.of_function[name] = cost
            if cost > _LARGE:
                self.guarded.add(name)

    def block(self, statements: list[ast.stmt]) -> int:
        return sum(self._statement(statement) for statement in statements)

    def _statement(self, node: ast.stmt) -> int:
        match node:
            case ast.If(test=test, body=body, orelse=orelse):
                return 1 + self.expression(test) + max(self.block(body), self.block(orelse))
            case ast.For(iter=iterable, orelse=orelse):
                return 4 + self.expression(iterable) + self.block(orelse) + (self.in_advance(node) or 0)
            case ast.While(test=test, orelse=orelse):
                return 2 + self.expression(test) + self.block(orelse)
            case ast.FunctionDef():
                return _CLOSURE
            case _:
                return 1 + sum(self.expression(child) for child in ast.iter_child_nodes(node))

    def iteration(self, node: ast.For | ast.While) -> int:
        """Fuel of one pass through a loop's body."""
        header = self.expression(node.target) if isinstance(node, ast.For) else self.expression(node.test)
        return 1 + header + self.block(node.body)

    def in_advance(self, node: ast.For) -> int | None:
        """Fuel of all passes through a short loop of known length, part of what its block costs; None for any other loop."""
        length = self._length(node.iter)
        if length is None or length > SHORT:
            return None
        total = length * self.iteration(node)
        return total if total <= SHORT else None

    def _length(self, node: ast.expr) -> int | None:
        """How many elements iterating `node` gives, where the source tells."""
        match node:
            case ast.Name(id=name) if name in self._constants:
                return self._length(self._constants[name])
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                return len(elements)
            case ast.Call(func=ast.Name(id="range"), args=[ast.Constant(value=int(stop))]):
                return max(stop, 0)
            case ast.Call(func=ast.Name(id="enumerate" | "reversed"), args=[items, *_]):
                return self._length(items)
            case ast.Call(func=ast.Name(id="zip"), args=[_, *_] as parallel):
                lengths = [length for items in parallel if (length := self._length(items)) is not None]
                return min(lengths) if len(lengths) == len(parallel) else None
        return None

    def expression(self, node: ast.AST) -> int:
        """Fuel to evaluate `node` once, without what its loops will charge."""
        match node:
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return 1 + self.expression(test) + max(self.expression(body), self.expression(orelse))
            case ast.Lambda():
                return _CLOSURE
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                return 4 + self.expression(node.generators[0].iter)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords):
                own = self._of_call(name)
                return own + sum(self.expression(child) for child in (*arguments, *keywords))
            case ast.Call():
                return _CALL + sum(self.expression(child) for child in ast.iter_child_nodes(node))
            case ast.operator() | ast.unaryop() | ast.boolop() | ast.cmpop() | ast.expr_context():
                return 0
            case _:
                return 1 + sum(self.expression(child) for child in ast.iter_child_nodes(node))

    def _of_call(self, name: str) -> int:
        if name in self._functions:
            return _CALL + (0 if name in self.guarded else self.of_function.get(name, 0))
        return _CONSTRUCTOR if name in grammar.CONSTRUCTORS else _CALL

    def generator(
        self, generators: list[ast.comprehension], position: int, elements: tuple[ast.expr, ...]
    ) -> int:
        """Fuel of one element of the `position`-th `for` of a comprehension."""
        own = generators[position]
        cost = 1 + self.expression(own.target) + sum(self.expression(test) for test in own.ifs)
        if position + 1 < len(generators):
            return cost + 2 + self.expression(generators[position + 1].iter)
        return cost + sum(self.expression(element) for element in elements)

    def of_key(self, key: ast.expr | None) -> int | None:
        """Fuel of one call of a key function whose calls can be charged in advance, None where they cannot."""
        match key:
            case None | ast.Constant(value=None):
                return 0
            case ast.Lambda(body=body):
                return _CALL + self.expression(body)
            case ast.Name(id=name) if name in self._functions and name not in self.guarded:
                return _CALL + self.of_function[name]
        return None


def _calls(function: ast.FunctionDef, functions: dict[str, ast.FunctionDef]) -> list[str]:
    return [node.id for node in ast.walk(function) if isinstance(node, ast.Name) and node.id in functions]


def _recursive(module: Module) -> set[str]:
    known = module.known
    calls = {name: set(_calls(function, known)) for name, function in known.items()}
    found = set()
    for start, called in calls.items():
        reached: set[str] = set()
        pending = list(called)
        while pending:
            name = pending.pop()
            if name not in reached:
                reached.add(name)
                pending.extend(calls[name])
        if start in reached:
            found.add(start)
    return found


def _callees_first(module: Module) -> list[str]:
    order: list[str] = []
    known = module.known

    def place(name: str, path: frozenset[str]) -> None:
        if name in order or name in path:
            return
        for callee in sorted(set(_calls(known[name], known))):
            place(callee, path | {name})
        order.append(name)

    for name in known:
        place(name, frozenset())
    return order
